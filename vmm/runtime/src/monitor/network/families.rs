//! What a link says of each family of addresses. Only what is carried is read: the crate makes a text of each byte of the rest, in
//! case it could not read it, which takes longer than all else that is read of a link.

use std::io;

use vmrun_netlink::Answer;
use vmrun_netlink::attributes::{Attribute, attributes};
use vmrun_netlink::core::{DecodeError, NlaBuffer, Parseable};
use vmrun_netlink::route::RouteNetlinkMessage;
use vmrun_netlink::route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, Inet6DevConf, Inet6DevConfBuffer, LinkAttribute, LinkMessage,
};

/// A link's header (`struct ifinfomsg`), and its attribute `IFLA_AF_SPEC`.
const LINK_HEADER: usize = 16;
const FAMILIES: u16 = 26;

/// `AF_INET` and `AF_INET6`.
const INET: u16 = 2;
const INET6: u16 = 10;

/// `IFLA_INET_CONF`, `IFLA_INET6_CONF` and `IFLA_INET6_ADDR_GEN_MODE`.
const INET_SETTINGS: u16 = 1;
const INET6_SETTINGS: u16 = 2;
const INET6_ADDRESS_MODE: u16 = 8;

/// As many bytes of settings as the crate reads: an older kernel has fewer, which are 0.
const INET6_SETTINGS_BYTES: usize = 240;

/// The link that an answer tells of, if it tells of one.
///
/// # Errors
/// It holds something that is not known.
pub(super) fn link(answer: &Answer) -> io::Result<Option<LinkMessage>> {
    let RouteNetlinkMessage::NewLink(mut link) = answer.without(LINK_HEADER, FAMILIES).message()? else {
        return Ok(None);
    };
    let families = answer.attribute(LINK_HEADER, FAMILIES).unwrap_or_default();
    let families =
        attributes(families).filter_map(|family| read(&family).transpose()).collect::<Result<_, _>>();
    let families = families.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    link.attributes.push(LinkAttribute::AfSpecUnspec(families));
    Ok(Some(link))
}

fn read(family: &Attribute<'_>) -> Result<Option<AfSpecUnspec>, DecodeError> {
    let parts = attributes(family.value());
    Ok(match family.kind {
        INET => {
            let settings = parts.filter(|part| part.kind == INET_SETTINGS);
            let settings = settings.map(|part| AfSpecInet::parse(&NlaBuffer::new_checked(part.whole)?));
            Some(AfSpecUnspec::Inet(settings.collect::<Result<_, _>>()?))
        }
        INET6 => {
            let known = parts.filter_map(|part| inet6(&part).transpose());
            Some(AfSpecUnspec::Inet6(known.collect::<Result<_, _>>()?))
        }
        _ => None,
    })
}

fn inet6(part: &Attribute<'_>) -> Result<Option<AfSpecInet6>, DecodeError> {
    match part.kind {
        INET6_SETTINGS => {
            let mut settings = part.value().to_vec();
            settings.resize(settings.len().max(INET6_SETTINGS_BYTES), 0);
            let settings = Inet6DevConf::parse(&Inet6DevConfBuffer::new_checked(&settings)?)?;
            Ok(Some(AfSpecInet6::DevConf(settings)))
        }
        INET6_ADDRESS_MODE => AfSpecInet6::parse(&NlaBuffer::new_checked(part.whole)?).map(Some),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use vmrun_netlink::Netlink;
    use vmrun_netlink::attributes::Writer;

    use super::*;

    const NEW_LINK: u16 = 16;

    /// What the crate reads, of which this is a part.
    fn read_by_the_crate(answer: &Answer) -> Option<LinkMessage> {
        let Ok(RouteNetlinkMessage::NewLink(mut link)) = answer.message() else { return None };
        let is_carried =
            |part: &AfSpecInet6| matches!(part, AfSpecInet6::DevConf(_) | AfSpecInet6::AddrGenMode(_));
        for attribute in &mut link.attributes {
            let LinkAttribute::AfSpecUnspec(families) = attribute else { continue };
            families.retain(|family| matches!(family, AfSpecUnspec::Inet(_) | AfSpecUnspec::Inet6(_)));
            for family in families {
                if let AfSpecUnspec::Inet6(parts) = family {
                    parts.retain(is_carried);
                }
            }
        }
        Some(link)
    }

    #[test]
    fn links_are_read_as_the_crate_reads_them() {
        let asked = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = Netlink::open().unwrap().dump(&asked).unwrap();
        assert!(!answers.is_empty());
        let families = |link: &LinkMessage| {
            let is_families = |one: &&LinkAttribute| matches!(one, LinkAttribute::AfSpecUnspec(_));
            link.attributes.iter().find(is_families).cloned()
        };
        for answer in &answers {
            let (read, expected) = (link(answer).unwrap().unwrap(), read_by_the_crate(answer).unwrap());
            assert!(
                families(&expected)
                    .is_some_and(|families| families != LinkAttribute::AfSpecUnspec(Vec::new()))
            );
            assert_eq!(families(&read), families(&expected));
            assert_eq!(read.attributes.len(), expected.attributes.len());
            assert!(expected.attributes.iter().all(|one| read.attributes.contains(one)));
        }
    }

    #[test]
    fn settings_that_a_kernel_does_not_know_are_0() {
        let settings = Writer::default().put(INET6_SETTINGS, &7i32.to_ne_bytes());
        let all = Writer::default().nest(FAMILIES, Writer::default().nest(INET6, settings)).finish();
        let answer = Answer::new(NEW_LINK, [vec![0; LINK_HEADER], all].concat());
        let mut expected = Inet6DevConf::default();
        expected.forwarding = 7;
        let families = vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::DevConf(expected)])];
        let read = link(&answer).unwrap().unwrap();
        assert_eq!(read.attributes, [LinkAttribute::AfSpecUnspec(families)]);
    }
}
