//! Just enough of Redis's protocol to ask a server on this machine how it is. All else is the store's.

use std::{io, net::Ipv4Addr, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

/// What an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends one command, its words split at spaces, and answers with the text of the reply: of a list, one
/// member a line; of a refusal, with the `-` before it.
pub(super) async fn ask(port: u16, command: &str) -> io::Result<String> {
    let exchange = async {
        let mut stream = BufReader::new(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?);
        stream.write_all(format!("{command}\r\n").as_bytes()).await?;
        let mut text = String::new();
        let mut missing = 1;
        while missing > 0 {
            missing += read(&mut stream, &mut text).await? - 1;
        }
        Ok(text)
    };
    timeout(PATIENCE, exchange).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Reads one reply without its members, and answers how many there are.
async fn read(stream: &mut BufReader<TcpStream>, text: &mut String) -> io::Result<i64> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let broken = || io::Error::new(io::ErrorKind::InvalidData, format!("{line:?} is no reply of a Redis"));
    let trimmed = line.strip_suffix("\r\n").ok_or_else(broken)?;
    let number = || trimmed[1..].parse::<i64>().map_err(|_| broken());
    if !text.is_empty() {
        text.push('\n');
    }
    match trimmed.as_bytes().first() {
        Some(b'-') => text.push_str(trimmed),
        Some(b'+' | b':') => text.push_str(&trimmed[1..]),
        Some(b'$') => {
            if let Ok(length) = usize::try_from(number()?) {
                let mut bytes = vec![0; length + 2];
                stream.read_exact(&mut bytes).await?;
                text.push_str(&String::from_utf8_lossy(&bytes[..length]));
            }
        }
        Some(b'*') => return Ok(number()?.max(0)),
        _ => return Err(broken()),
    }
    Ok(0)
}

/// The value after `name:` in what `INFO` answers.
pub(super) fn info<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn answered(reply: &'static str) -> io::Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut command = [0; 6];
            stream.read_exact(&mut command).await.unwrap();
            assert_eq!(&command, b"PING\r\n");
            stream.write_all(reply.as_bytes()).await.unwrap();
        });
        let text = ask(port, "PING").await;
        server.await.unwrap();
        text
    }

    #[tokio::test]
    async fn replies_become_text() {
        for (reply, text) in [
            ("+PONG\r\n", "PONG"),
            (":7\r\n", "7"),
            ("-LOADING wait\r\n", "-LOADING wait"),
            ("$3\r\na\nb\r\n", "a\nb"),
            ("*2\r\n$3\r\ndir\r\n$2\r\n/x\r\n", "dir\n/x"),
            ("*0\r\n", ""),
        ] {
            assert_eq!(answered(reply).await.unwrap(), text, "{reply:?}");
        }
        for reply in ["HTTP/1.1 400 Bad Request\r\n", "$x\r\n", "+cut"] {
            assert!(answered(reply).await.is_err(), "{reply:?}");
        }
    }

    #[test]
    fn info_is_looked_up_by_name() {
        let text = "# Server\r\nredis_version:7.0.15\r\nprocess_id:42\r\n";
        assert_eq!(info(text, "process_id"), Some("42"));
        assert_eq!(info(text, "process"), None);
    }
}
