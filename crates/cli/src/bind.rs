//! Opening a port, or saying how to have another.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, anyhow};
use tokio::net::TcpListener;

/// Where something wants to listen.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// What listens there.
    pub what: &'static str,
    /// The flag that changes it.
    pub flag: &'static str,
    /// The address.
    pub address: SocketAddr,
    /// Whether any other port will do as well.
    pub or_any: bool,
}

impl Place {
    /// Opens the port.
    pub async fn open(self) -> anyhow::Result<TcpListener> {
        let Self { what, flag, address, or_any } = self;
        match TcpListener::bind(address).await {
            Ok(listener) => Ok(listener),
            Err(error) if error.kind() == ErrorKind::AddrInUse && or_any => {
                let any = SocketAddr::new(address.ip(), 0);
                TcpListener::bind(any).await.with_context(|| format!("{any} cannot be listened at"))
            }
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                let other = SocketAddr::new(address.ip(), address.port().wrapping_add(1000).max(1024));
                Err(anyhow!(
                    "{what} cannot listen at {address}: another program does; \
                     give it another address with {flag} (such as {flag} {other}, or port 0 for any free one)"
                ))
            }
            Err(error) => Err(anyhow!(error)
                .context(format!("{what} cannot listen at {address}; give it another address with {flag}"))),
        }
    }
}

/// The address at which this machine reaches a listener: loopback where it listens at all addresses.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let loopback: IpAddr = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => [127, 0, 0, 1].into(),
        IpAddr::V6(ip) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(loopback, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_names_the_flag() {
        let held = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = held.local_addr().unwrap();
        let place = Place { what: "the API", flag: "--listen", address, or_any: false };
        let error = place.open().await.unwrap_err().to_string();
        assert!(
            error.contains(&address.to_string()) && error.contains("--listen") && error.contains("the API"),
            "{error}"
        );
        let other = Place { or_any: true, ..place }.open().await.unwrap().local_addr().unwrap();
        assert!(other.port() != address.port() && other.ip() == address.ip());
    }

    #[test]
    fn all_addresses_are_reached_by_loopback() {
        for (listens, reached) in
            [("0.0.0.0:9", "127.0.0.1:9"), ("[::]:9", "[::1]:9"), ("127.0.0.2:9", "127.0.0.2:9")]
        {
            assert_eq!(reachable(listens.parse().unwrap()), reached.parse().unwrap());
        }
    }
}
