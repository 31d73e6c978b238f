//! Whether published ports are free.
//!
//! passt takes a port of all addresses for each version of IP by itself, and is content with one of the two: the
//! other would be answered by somebody else. Who takes it between this look and passt's is not seen.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use vmrun_spec::{PortProtocol, PublishedPort};

use super::Families;

/// The first address and port that somebody else has, and of which protocol.
pub(super) fn first_taken(ports: &[PublishedPort], families: Families) -> Option<(SocketAddr, &'static str)> {
    ports.iter().find_map(|port| {
        let (protocol, is_taken): (_, fn(SocketAddr) -> bool) = match port.protocol {
            PortProtocol::Tcp => ("TCP", |address| says_in_use(TcpListener::bind(address))),
            PortProtocol::Udp => ("UDP", |address| says_in_use(UdpSocket::bind(address))),
        };
        let mut places = places(port, families).into_iter();
        Some((places.find(|place| is_taken(*place))?, protocol))
    })
}

/// Where passt listens for it.
fn places(port: &PublishedPort, families: Families) -> Vec<SocketAddr> {
    let all: [Option<IpAddr>; 2] = match port.address {
        Some(address) => [Some(address), None],
        None => [Some(Ipv4Addr::UNSPECIFIED.into()), families.v6.then_some(Ipv6Addr::UNSPECIFIED.into())],
    };
    all.into_iter().flatten().map(|address| (address, port.host).into()).collect()
}

/// What else there may be to say passt says itself.
fn says_in_use<T>(bound: io::Result<T>) -> bool {
    bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Families = Families { v4: true, v6: true };

    fn taken(words: &str) -> Option<(SocketAddr, &'static str)> {
        first_taken(&[vmrun_plan::published_port(words).unwrap()], BOTH)
    }

    #[test]
    fn port_that_is_taken_for_one_version_of_ip_is_not_free() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let here = (IpAddr::from(Ipv4Addr::LOCALHOST), port).into();
        let everywhere = (IpAddr::from(Ipv4Addr::UNSPECIFIED), port).into();
        assert_eq!(taken(&format!("127.0.0.1:{port}:80")), Some((here, "TCP")));
        assert_eq!(taken(&format!("{port}:80")), Some((everywhere, "TCP")));
        drop(listener);
        assert_eq!(taken(&format!("127.0.0.1:{port}:80")), None);
    }

    #[test]
    fn port_without_an_address_is_one_of_each_version_that_leads_out() {
        let port = vmrun_plan::published_port("8080:80").unwrap();
        let shown = |families| places(&port, families).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown(BOTH), ["0.0.0.0:8080", "[::]:8080"]);
        assert_eq!(shown(Families { v6: false, ..BOTH }), ["0.0.0.0:8080"]);
    }
}
