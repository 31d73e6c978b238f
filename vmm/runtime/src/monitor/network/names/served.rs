//! Which loopback addresses of the namespace the host serves at: a name server that a container has named
//! may as well be its own, as with `docker run --dns 127.0.0.1`, and is in the guest then.
//!
//! Sockets at the address count whatever their port is, for rules of the namespace may lead to them:
//! Docker's has one of the kernel's choice.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vmrun_proto::NAME_SERVER_PORT;

/// Sockets for datagrams of this thread's namespace, which each name server has.
const TABLES: [&str; 2] = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"];

/// Those of the servers for which there are sockets on the host.
pub(super) fn served(servers: Vec<IpAddr>) -> Vec<IpAddr> {
    if servers.is_empty() {
        return servers;
    }
    // A kernel without IPv6 has one table.
    let tables = TABLES.map(|path| fs::read_to_string(path).unwrap_or_default());
    let sockets: Vec<_> = tables.iter().flat_map(|table| listening(table)).collect();
    servers.into_iter().filter(|server| sockets.iter().any(|socket| is_for(*socket, *server))).collect()
}

fn is_for((address, port): (IpAddr, u16), server: IpAddr) -> bool {
    let at_any = address == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        || (server.is_ipv4() && address == IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    address == server || (at_any && port == NAME_SERVER_PORT)
}

/// The places of those that are connected to nobody, from a table of `proc_net(5)`.
fn listening(table: &str) -> impl Iterator<Item = (IpAddr, u16)> {
    table.lines().skip(1).filter_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let local = place(words.next()?)?;
        let (_, port) = place(words.next()?)?;
        (port == 0).then_some(local)
    })
}

/// `0B00007F:0035`: words of the address as the machine has them in memory, and the port.
fn place(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let words: Option<Vec<[u8; 4]>> = (0..address.len() / 8)
        .map(|word| u32::from_str_radix(address.get(8 * word..8 * word + 8)?, 16).ok().map(u32::to_ne_bytes))
        .collect();
    let bytes = words?.concat();
    let address = match <[u8; 4]>::try_from(&*bytes) {
        Ok(bytes) => IpAddr::from(bytes),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(&*bytes).ok()?).to_canonical(),
    };
    Some((address, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n";

    fn found(rows: &[&str], server: &str) -> bool {
        let table = HEAD.to_owned() + &rows.join("\n");
        let server = server.parse().unwrap();
        listening(&table).any(|socket| is_for(socket, server))
    }

    #[test]
    fn server_is_found_at_its_address_or_at_any_with_its_port() {
        let dockers = "  9: 0B00007F:D431 00000000:0000 07 00000000:00000000 00:00000000 00000000 0";
        assert!(found(&[dockers], "127.0.0.11"));
        assert!(!found(&[dockers], "127.0.0.1"));
        let any = " 17: 00000000:0035 00000000:0000 07 00000000:00000000";
        assert!(found(&[dockers, any], "127.0.0.53"));
        assert!(!found(&[" 17: 00000000:0044 00000000:0000 07"], "127.0.0.53"));
        assert!(!found(&[any], "::1"));
        let v6 = " 17: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 07";
        assert!(found(&[v6], "::1") && found(&[v6], "127.0.0.1"));
        let one = " 17: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 07";
        assert!(found(&[one], "::1") && !found(&[one], "127.0.0.1"));
    }

    #[test]
    fn socket_that_asks_serves_nobody() {
        assert!(!found(&["  9: 0100007F:D431 0B00007F:0035 01 00000000:00000000"], "127.0.0.1"));
        assert!(!found(&["nonsense", " 1: 7F:1 :", " 2: 0100007F 0:0", ""], "127.0.0.1"));
    }
}
