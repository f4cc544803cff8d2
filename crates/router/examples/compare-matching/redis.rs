//! What a Redis says: PSUBSCRIBE on one connection, PUBLISH on another.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use postroad_model::subscription::{Channels, Subscription};
use postroad_testkit::redis::PrivateRedis;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::{Answers, cases::Set};

/// Published behind each message: no pattern of a set that is not told apart by it begins so.
const END: &[u8] = b"the end of a message";

/// Its answers, in a Redis of our own.
pub(crate) async fn ask(set: &Set) -> Result<Answers> {
    let redis = PrivateRedis::start().await?;
    let mut listening = BufReader::new(TcpStream::connect(redis.addr()).await?);
    let mut speaking = BufReader::new(TcpStream::connect(redis.addr()).await?);
    // The same pattern twice on one connection is one to Redis.
    let mut columns: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for (column, subscription) in set.subscriptions.iter().enumerate() {
        columns.entry(pattern(subscription)).or_default().push(column);
    }
    for pattern in columns.keys() {
        command(&mut listening, &[b"PSUBSCRIBE", pattern]).await?;
        reply(&mut listening).await?;
    }
    command(&mut listening, &[b"SUBSCRIBE", END]).await?;
    reply(&mut listening).await?;
    let mut answers = Vec::with_capacity(set.messages.len());
    for message in &set.messages {
        for channel in [message.channel.as_str().as_bytes(), END] {
            command(&mut speaking, &[b"PUBLISH", channel, b"x"]).await?;
            reply(&mut speaking).await?;
        }
        let mut row = vec![false; set.subscriptions.len()];
        loop {
            let parts = reply(&mut listening).await?;
            match parts.first().map(Vec::as_slice) {
                Some(b"message") => break,
                // A pattern may match the end, too.
                Some(b"pmessage") if parts[2] == END => {}
                Some(b"pmessage") => {
                    for column in &columns[parts[1].as_slice()] {
                        row[*column] = true;
                    }
                }
                _ => bail!("Redis said {parts:?}"),
            }
        }
        answers.push(row);
    }
    Ok(answers)
}

fn pattern(subscription: &Subscription) -> &[u8] {
    match &subscription.selector.channels {
        Channels::Pattern(glob) => glob.as_str().as_bytes(),
        Channels::Channel(name) => name.as_str().as_bytes(),
    }
}

async fn command(connection: &mut BufReader<TcpStream>, parts: &[&[u8]]) -> Result<()> {
    let mut bytes = format!("*{}\r\n", parts.len()).into_bytes();
    for part in parts {
        bytes.extend(format!("${}\r\n", part.len()).bytes());
        bytes.extend_from_slice(part);
        bytes.extend(b"\r\n");
    }
    Ok(connection.write_all(&bytes).await?)
}

/// One reply: a number, or an array of texts and numbers.
async fn reply(connection: &mut BufReader<TcpStream>) -> Result<Vec<Vec<u8>>> {
    let (kind, count) = head(connection).await?;
    let count = if kind == '*' { count } else { return Ok(Vec::new()) };
    let mut parts = Vec::with_capacity(count);
    for _ in 0..count {
        let (kind, length) = head(connection).await?;
        let mut part = Vec::new();
        if kind == '$' {
            part.resize(length + 2, 0);
            connection.read_exact(&mut part).await?;
            part.truncate(length);
        }
        parts.push(part);
    }
    Ok(parts)
}

async fn head(connection: &mut BufReader<TcpStream>) -> Result<(char, usize)> {
    let mut line = String::new();
    connection.read_line(&mut line).await?;
    let kind = line.chars().next().context("Redis hung up")?;
    match (kind, line[1..].trim().parse()) {
        (':' | '$' | '*', Ok(number)) => Ok((kind, number)),
        _ => bail!("Redis said {line:?}"),
    }
}
