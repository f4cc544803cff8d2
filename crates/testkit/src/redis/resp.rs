//! Just enough of Redis's protocol to ask a server how it is.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// What Redis answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// There is no such thing.
    Nil,
    /// `+OK` and its like.
    Status(String),
    /// A number.
    Int(i64),
    /// A string of bytes.
    Bulk(Bytes),
    /// Several replies.
    Array(Vec<Reply>),
    /// A refusal. [`PrivateRedis::command`](super::PrivateRedis::command) makes one at the top level an `Err`.
    Error(String),
}

impl Reply {
    /// A status, string, number or error as text (bytes that are no UTF-8 are replaced).
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Status(text) | Self::Error(text) => Some(text.clone()),
            Self::Bulk(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Self::Int(number) => Some(number.to_string()),
            Self::Nil | Self::Array(_) => None,
        }
    }

    /// A number, also one that stands in a string.
    pub fn int(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            Self::Nil | Self::Array(_) | Self::Error(_) => None,
            Self::Status(_) | Self::Bulk(_) => self.text()?.parse().ok(),
        }
    }

    /// The members of an array; none for anything else.
    pub fn items(&self) -> &[Reply] {
        match self {
            Self::Array(items) => items,
            _ => &[],
        }
    }

    /// The value after `name:` in the text that `INFO` answers.
    pub fn info(&self, name: &str) -> Option<String> {
        let text = self.text()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.trim().to_owned())
    }
}

/// One connection to Redis, for one command at a time.
pub(super) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub(super) async fn open(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    pub(super) async fn ask<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<Reply> {
        let stream = self.stream.get_mut();
        stream.write_all(&encode(args)).await.context("cannot send the command to Redis")?;
        read_reply(&mut self.stream).await.context("cannot read Redis's reply")
    }
}

fn encode<A: AsRef<[u8]>>(args: &[A]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        let arg = arg.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

async fn read_reply<S: AsyncBufReadExt + Unpin>(stream: &mut S) -> Result<Reply> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let Some(line) = line.strip_suffix("\r\n") else { bail!("the connection ended in the middle: {line:?}") };
    let Some((kind, rest)) = line.split_at_checked(1) else { bail!("an empty line is no reply") };
    Ok(match kind {
        "+" => Reply::Status(rest.to_owned()),
        "-" => Reply::Error(rest.to_owned()),
        ":" => Reply::Int(rest.parse()?),
        "$" => match usize::try_from(rest.parse::<i64>()?) {
            Err(_) => Reply::Nil,
            Ok(length) => {
                let mut bytes = vec![0; length + 2];
                stream.read_exact(&mut bytes).await?;
                bytes.truncate(length);
                Reply::Bulk(bytes.into())
            }
        },
        "*" => match usize::try_from(rest.parse::<i64>()?) {
            Err(_) => Reply::Nil,
            Ok(length) => {
                let mut items = Vec::new();
                for _ in 0..length {
                    items.push(Box::pin(read_reply(stream)).await?);
                }
                Reply::Array(items)
            }
        },
        _ => bail!("{line:?} is no reply"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(mut bytes: &[u8]) -> Result<Reply> {
        read_reply(&mut bytes).await
    }

    #[test]
    fn a_command_is_an_array_of_strings() {
        assert_eq!(encode(&["SET", "k", ""]), b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n");
    }

    #[tokio::test]
    async fn every_kind_of_reply_is_read() {
        let reply = read(b"*6\r\n+OK\r\n:-3\r\n$4\r\na\r\nb\r\n$-1\r\n*-1\r\n-ERR no\r\n").await.unwrap();
        let expected = [
            Reply::Status("OK".to_owned()),
            Reply::Int(-3),
            Reply::Bulk("a\r\nb".into()),
            Reply::Nil,
            Reply::Nil,
            Reply::Error("ERR no".to_owned()),
        ];
        assert_eq!(reply.items(), expected);
    }

    #[tokio::test]
    async fn half_a_reply_is_an_error() {
        for half in ["", "+O", "$4\r\nab", "*2\r\n+OK\r\n", "hello\r\n", "\r\n"] {
            assert!(read(half.as_bytes()).await.is_err(), "{half:?}");
        }
    }

    #[test]
    fn replies_are_read_as_text_numbers_and_info() {
        let info = Reply::Bulk("# Server\r\nuptime:12\r\nuptime_days:0\r\n".into());
        assert_eq!(info.info("uptime").as_deref(), Some("12"));
        assert_eq!(info.info("upti"), None);
        assert_eq!(Reply::Bulk("17".into()).int(), Some(17));
        assert_eq!(Reply::Nil.int(), None);
        assert_eq!(Reply::Int(5).text().as_deref(), Some("5"));
        assert!(Reply::Nil.items().is_empty());
    }
}
