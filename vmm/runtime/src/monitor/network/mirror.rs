//! The mirror: the namespace's interfaces end in cards of the guest's, and what the guest is told of
//! the network is what the namespace holds.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use vmrun_netlink::Netlink;
use vmrun_proto::Network;

use super::carried::{Carried, Left};
use super::error::NetworkError;
use super::filters::Filter;
use super::lifetimes::Lifetimes;
use super::names::{NameRelay, ResolvConf};
use super::netfilter::{Legacy, Listing, Rules, UnfitRule};
use super::news::News;
use super::plan::{Card, NetworkPlan, Unfit};
use super::slots::Slots;
use super::{answers, carried, dump, namespace_settings, netfilter, plan, tap};
use crate::agent_client::{AgentError, Watch};
use crate::log::Log;
use crate::step;

/// The namespace of the thread that has made it, and the machine.
pub(crate) struct Mirror {
    container: String,
    netlink: Netlink,
    rules: Rules,
    slots: Arc<dyn Slots>,
    /// By the interfaces' numbers on the host.
    carried: BTreeMap<u32, Carried>,
    /// What the guest has been told.
    told: Network,
    lifetimes: Lifetimes,
    /// What could not be carried when it was looked last.
    unfit: Vec<Unfit>,
    /// What was warned of at the beginning.
    warned: Vec<String>,
    /// Where name servers at loopback addresses are named; nowhere if the guest alone knows.
    resolv_conf: Option<ResolvConf>,
    /// Who asks them for the guest.
    names: Option<NameRelay>,
    log: Log,
}

/// What a look at the namespace has found.
#[derive(Debug)]
pub(crate) struct Found {
    /// What the guest is to have from now on.
    pub(crate) network: Network,
    /// It has been told all of that.
    pub(crate) is_told: bool,
    /// What it cannot have.
    pub(crate) missing: Vec<String>,
    /// What works less well than it should.
    pub(crate) warnings: Vec<String>,
    /// Some of what is missing was only not to be had now.
    pub(crate) may_be_had_later: bool,
}

/// What there is.
#[derive(Debug, Default)]
struct Taken {
    network: Network,
    /// What could not be carried.
    failures: Vec<NetworkError>,
    /// What may be carried another time.
    delayed: Vec<NetworkError>,
    /// What the container would be right without.
    warnings: Vec<NetworkError>,
}

impl Mirror {
    pub(crate) fn new(
        container: &str,
        news: &News,
        slots: Arc<dyn Slots>,
        resolv_conf: Option<ResolvConf>,
        log: Log,
    ) -> Result<Self, NetworkError> {
        let (rule_news, wakes) = news.of_rules();
        Ok(Self {
            container: container.to_owned(),
            netlink: Netlink::open().map_err(NetworkError::Read)?,
            rules: Rules::new(rule_news, wakes),
            slots,
            carried: BTreeMap::new(),
            told: Network::default(),
            lifetimes: Lifetimes::begin(Instant::now()),
            unfit: Vec::new(),
            warned: Vec::new(),
            resolv_conf,
            names: None,
            log,
        })
    }

    /// Carries what there is. Whatever cannot be carried is an error: the container would not be right
    /// without. None where there is nothing but loopback. Beside it is what to warn of.
    pub(crate) fn begin(&mut self) -> Result<(Option<Network>, Vec<String>), NetworkError> {
        let Taken { mut network, mut failures, mut delayed, warnings } = self.take_in()?;
        let unfit = self.unfit.first().map(Unfit::error);
        if let Some(error) = unfit.or_else(|| failures.pop()).or_else(|| delayed.pop()) {
            return Err(error);
        }
        let with_next_step = |error: &NetworkError| match error.next_step() {
            Some(step) => format!("{}; {step}", crate::error::chain(error)),
            None => crate::error::chain(error),
        };
        let shown = warnings.iter().map(with_next_step).collect();
        self.warned = warnings.iter().map(|error| crate::error::chain(error)).collect();
        if network == Network::default() {
            return Ok((None, shown));
        }
        network.settings = namespace_settings::read(&network.settings).map_err(NetworkError::Read)?;
        self.told(network.clone());
        Ok((Some(network), shown))
    }

    /// What was warned of at the [beginning](Self::begin).
    pub(crate) fn warned(&self) -> &[String] {
        &self.warned
    }

    /// Whether there may be rules that nothing has told of: the kernel has no news of those before nf_tables.
    pub(crate) fn may_lack_rules(&self) -> bool {
        !self.carried.is_empty() && netfilter::has_legacy_tables()
    }

    /// Looks at the namespace anew. Cards for interfaces that have come are plugged in; those of
    /// interfaces that have gone stay until the guest has been [told](Self::told).
    pub(crate) fn look(&mut self) -> Result<Found, NetworkError> {
        let Taken { mut network, failures, delayed, warnings } = self.take_in()?;
        if network != Network::default() {
            network.settings = namespace_settings::read(&self.told.settings).map_err(NetworkError::Read)?;
        }
        let is_told = self.lifetimes.are_as_told(&self.told, &mut network, Instant::now());
        let shown = |error: NetworkError| crate::error::chain(&error);
        let may_be_had_later = !delayed.is_empty();
        let missing = self.unfit.iter().map(Unfit::error).chain(failures).chain(delayed).map(shown).collect();
        let warnings = warnings.into_iter().map(shown).collect();
        Ok(Found { network, is_told, missing, warnings, may_be_had_later })
    }

    /// Carries what there is as far as that can be; what failed is in the answer.
    fn take_in(&mut self) -> Result<Taken, NetworkError> {
        let dump = dump::read(&mut self.netlink, |dump| self.carried.is_empty() && plan::is_empty(dump))
            .map_err(NetworkError::Read)?;
        let taken = self.carried.iter().map(|(index, carried)| (*index, carried.card.slot)).collect();
        let NetworkPlan { cards, mut network, unfit } = if self.carried.is_empty() && plan::is_empty(&dump) {
            NetworkPlan::default()
        } else {
            plan::plan(&dump, &taken)
        };
        self.unfit = unfit;
        let (mut failures, mut delayed) = (Vec::new(), Vec::new());
        let mut new = Vec::new();
        for card in cards {
            match self.carried.get_mut(&card.index) {
                Some(carried) => {
                    let mut failures = carried.follow(&card, &mut self.netlink, &*self.slots);
                    failures.extend(carried.mend(&mut self.netlink).err());
                    // One that has gone since is news, which come.
                    if !failures.is_empty() && carried::has_gone(&mut self.netlink, card.index) {
                        plan::leave_out(&mut network, &card.name);
                    } else {
                        delayed.extend(failures);
                    }
                }
                None => new.push(card),
            }
        }
        for carried in carried::carry(&mut self.netlink, &*self.slots, new) {
            match carried {
                Ok(carried) => drop(self.carried.insert(carried.card.index, carried)),
                Err(Left { index, name, why }) => {
                    plan::leave_out(&mut network, &name);
                    if !carried::has_gone(&mut self.netlink, index) {
                        delayed.push(why);
                    }
                }
            }
        }
        network.name_servers = self.resolv_conf.as_ref().map(ResolvConf::servers).unwrap_or_default();
        let mut warnings = Vec::new();
        if network != Network::default() || !self.carried.is_empty() {
            let (Listing { tables, unfit }, legacy) =
                self.rules.read(&dump::names(&dump), &network.name_servers)?;
            network.tables = tables;
            failures.extend(unfit.into_iter().map(UnfitRule::error));
            match legacy {
                Legacy::Tables(tables) if tables.is_empty() => {}
                Legacy::Tables(tables) => {
                    let tables = tables.into_iter().collect::<Vec<_>>().join(", ");
                    failures.push(NetworkError::Legacy { tables });
                }
                Legacy::Hidden(source) => warnings.push(NetworkError::Hidden(source)),
                Legacy::Unread(source) => delayed.push(NetworkError::Rules(source)),
            }
        }
        warnings.extend(self.take_groups());
        warnings.extend(self.let_answers_in(network.name_servers.first().copied()));
        Ok(Taken { network, failures, delayed, warnings })
    }

    /// Has the interfaces take all that the guest may want to hear.
    fn take_groups(&mut self) -> Vec<NetworkError> {
        let mut failures = Vec::new();
        for (index, carried) in &mut self.carried {
            if let Err(error) = carried.take_groups()
                && !carried::has_gone(&mut self.netlink, *index)
            {
                failures.push(error);
            }
        }
        failures
    }

    /// Lets the namespace's name servers, of which one is named, have what they ask for.
    fn let_answers_in(&mut self, server: Option<IpAddr>) -> Vec<NetworkError> {
        let mut failures = Vec::new();
        for (index, carried) in &mut self.carried {
            match server {
                Some(server) if !carried.lets_answers_in => {
                    let interface = || carried.card.name.clone();
                    match answers::let_in(&mut self.netlink, *index, carried.tap) {
                        Ok(()) => carried.lets_answers_in = true,
                        Err(_) if carried::has_gone(&mut self.netlink, *index) => {}
                        Err((step, source)) => {
                            failures.push(NetworkError::Answers {
                                server,
                                interface: interface(),
                                step,
                                source,
                            });
                        }
                    }
                }
                None if carried.lets_answers_in => {
                    Filter::Answers.remove(&mut self.netlink, *index);
                    carried.lets_answers_in = false;
                }
                _ => {}
            }
        }
        failures
    }

    /// Asks the name servers that the guest has been told of for it, once the agent stands for them there.
    pub(crate) fn serve_names(&mut self, watch: Watch<'_>) -> Result<(), AgentError> {
        let servers = &self.told.name_servers;
        match &self.names {
            // The agent has ended the connection.
            _ if servers.is_empty() => self.names = None,
            Some(names) if names.is_there() => names.set_servers(servers),
            _ => {
                self.names = Some(NameRelay::start(&self.container, servers, self.log.clone(), watch)?);
                step!("names are asked for at {servers:?}");
            }
        }
        Ok(())
    }

    /// Whose network it is.
    pub(crate) fn container(&self) -> &str {
        &self.container
    }

    /// The guest has done what it was asked for: what is gone from its network is unplugged.
    pub(crate) fn told(&mut self, network: Network) {
        step!("the guest's network: {}", summary(&network));
        self.lifetimes.told(&network, Instant::now());
        self.told = network;
        let is_told = |card: &Card| {
            let device = card.slot.device();
            self.told.interfaces.iter().any(|interface| {
                matches!(&interface.device, vmrun_proto::NetworkDevice::Card { device: told, .. } if *told == device)
            })
        };
        let gone: Vec<u32> = self
            .carried
            .iter()
            .filter(|(_, carried)| !is_told(&carried.card))
            .map(|(index, _)| *index)
            .collect();
        for index in gone {
            if let Some(carried) = self.carried.remove(&index) {
                carried.release(&mut self.netlink, &*self.slots);
            }
        }
    }

    /// Lets the interfaces go while the machine's process ends, which would wait for the kernel's readers of each tap
    /// (`netdev_run_todo`, net/core/dev.c). The kernel waits for those of a packet socket, too; it does both at once.
    pub(crate) fn let_go(mut self) {
        let mut carried: Vec<_> = std::mem::take(&mut self.carried).into_values().collect();
        let groups: Vec<_> = carried.iter_mut().filter_map(|carried| carried.groups.take()).collect();
        let taps: Vec<u32> = carried.iter().map(|carried| carried.tap).collect();
        // First: another sandbox that comes to the namespace takes one without a tap for its own.
        for carried in carried {
            carried.redirect.remove(&mut self.netlink);
        }
        thread::scope(|scope| {
            // Without a thread it takes longer.
            let closing = thread::Builder::new().name("groups".to_owned());
            let _ = closing.spawn_scoped(scope, move || drop(groups));
            for tap in taps {
                tap::remove(&mut self.netlink, tap);
            }
        });
    }
}

impl Drop for Mirror {
    /// The namespace may be there for longer than the sandbox; the taps go with the machine's process.
    fn drop(&mut self) {
        for carried in std::mem::take(&mut self.carried).into_values() {
            carried.redirect.remove(&mut self.netlink);
        }
    }
}

impl std::fmt::Debug for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mirror").field("carried", &self.carried).field("told", &self.told).finish()
    }
}

impl Unfit {
    fn error(&self) -> NetworkError {
        let what =
            self.interface.as_ref().map_or("the routing".to_owned(), |name| format!("the interface {name}"));
        NetworkError::Unfit { what, why: self.why.clone() }
    }
}

impl UnfitRule {
    fn error(self) -> NetworkError {
        NetworkError::Unfit { what: self.rule, why: self.why.to_owned() }
    }
}

fn summary(network: &Network) -> String {
    let interface = |interface: &vmrun_proto::Interface| {
        let addresses = interface.addresses.iter().map(|one| format!(" {}/{}", one.address, one.prefix));
        format!("{}{}", interface.name, addresses.collect::<String>())
    };
    let interfaces: Vec<_> = network.interfaces.iter().map(interface).collect();
    let chains = network.tables.iter().flat_map(|table| &table.chains);
    format!(
        "{}; {} routes, {} rules, {} neighbours, {} netfilter rules",
        interfaces.join(", "),
        network.routes.len(),
        network.rules.len(),
        network.neighbours.len(),
        chains.map(|chain| chain.rules.len()).sum::<usize>()
    )
}
