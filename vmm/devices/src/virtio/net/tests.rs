use std::num::NonZeroU64;
use std::sync::atomic::Ordering;
use std::thread::yield_now;

use virtio_bindings::virtio_net::{VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_MRG_RXBUF};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;
use vmrun_spec::{Frames, RateSpec};

use super::test_tap::{Host, frame, tap};
use super::*;
use crate::memory::Memory;
use crate::virtio::test_queue::{
    BUFFERS, Buffer, Failures, Seen, WRITE, interrupt, memory, queue_with_chains,
};

/// A device whose driver has made these chains available.
struct Setting {
    net: Net,
    host: Host,
    failures: Failures,
    rx: (Memory, Seen),
    tx: (Memory, Seen, EventFd),
}

const FEATURES: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF | 1 << VIRTIO_NET_F_GUEST_CSUM | 1 << VIRTIO_NET_F_CTRL_VQ;

fn spec() -> NetSpec {
    NetSpec { mac: [2, 0, 0, 0, 0, 1], mtu: None, rx: None, tx: None }
}

fn setting(spec: &NetSpec, rx: &[&[Buffer]], tx: &[&[Buffer]], control: &[&[Buffer]]) -> Setting {
    let (tap, host) = tap();
    let failures = Failures::default();
    let mut net = Net::on(spec, tap, failures.sink()).unwrap();
    let [rx_memory, tx_memory, control_memory] = [memory(), memory(), memory()];
    control_memory.write_slice(&[3, 0], GuestAddress(BUFFERS)).unwrap();
    let (rx, rx_seen) = queue_with_chains(&rx_memory, rx).split();
    let (tx, tx_seen) = queue_with_chains(&tx_memory, tx).split();
    let (control, _) = queue_with_chains(&control_memory, control).split();
    let kick = tx.kick().try_clone().unwrap();
    control.kick().write(1).unwrap();
    let activation = Activation {
        queues: vec![Some(rx), Some(tx), Some(control)],
        memory: rx_memory.clone(),
        interrupt: interrupt(&failures),
        features: FEATURES,
    };
    net.activate(activation).unwrap();
    Setting { net, host, failures, rx: (rx_memory, rx_seen), tx: (tx_memory, tx_seen, kick) }
}

impl Setting {
    fn figure(&self, name: &str) -> u64 {
        let figures = self.net.counters().read();
        figures.into_iter().find(|(found, _)| *found == name).unwrap().1
    }

    /// Waits until a figure is `wanted`.
    fn await_figure(&self, name: &str, wanted: u64) {
        while self.figure(name) < wanted {
            assert!(self.failures.told().is_empty(), "{:?}", self.failures.told());
            yield_now();
        }
        assert_eq!(self.figure(name), wanted);
    }

    fn status(&self) -> u8 {
        self.net.config().bytes()[6]
    }
}

/// One chain of one buffer, for all queues in need of any.
const BUFFER: &[Buffer] = &[(BUFFERS, 2000, WRITE)];
const FRAME: &[Buffer] = &[(BUFFERS, 100, 0)];
const ALL: [&[Buffer]; 16] = [BUFFER; 16];

#[test]
fn frames_go_both_ways_and_are_counted() {
    let setting = setting(&spec(), &ALL, &[FRAME; 3], &[]);
    assert!(setting.host.send(&frame(70)));
    setting.await_figure("rx_packets", 1);
    setting.await_figure("rx_bytes", 58);
    setting.await_figure("tx_packets", 3);
    setting.await_figure("tx_bytes", 3 * 88);
    for _ in 0..3 {
        assert_eq!(setting.host.receive().unwrap().len(), 100);
    }
    assert_eq!(setting.host.receive(), None);
    while setting.tx.1.used().len() < 3 || setting.rx.1.used().is_empty() {
        yield_now();
    }
    assert_eq!(setting.rx.0.read_obj::<u16>(GuestAddress(BUFFERS + 10)).unwrap(), 1);
    assert_eq!(setting.host.offload.load(Ordering::SeqCst), libc::TUN_F_CSUM);
}

#[test]
fn suspended_device_leaves_its_queues_where_they_were_and_another_announces_itself() {
    let mut setting = setting(&spec(), &ALL, &[FRAME], &[]);
    setting.await_figure("tx_packets", 1);
    let Suspended { queues, state } = setting.net.suspend().unwrap();
    assert!(setting.net.suspend().is_none());
    assert_eq!(queues.len(), 3);
    let (tap, host) = tap();
    let mut other = Net::on(&spec(), tap, setting.failures.sink()).unwrap();
    other.restore(&state.unwrap()).unwrap();
    assert_eq!(other.config().bytes()[6], 3);
    let queues = queues.into_iter().map(Some).collect();
    let interrupt = interrupt(&setting.failures);
    other.activate(Activation { queues, memory: memory(), interrupt, features: FEATURES }).unwrap();
    setting.net = other;
    assert!(host.send(&frame(70)));
    setting.await_figure("rx_packets", 1);
    assert_eq!(setting.figure("tx_packets"), 0, "it had been sent before");
}

#[test]
fn driver_that_announces_itself_says_so() {
    let (ours, answer) = ((BUFFERS, 2, 0), (BUFFERS + 0x100, 1, WRITE));
    let setting = setting(&spec(), &[], &[], &[]);
    let link = &setting.net.shared.link;
    link.announce(true);
    assert_eq!(setting.status(), 3);
    let memory = memory();
    let answers = |command: [u8; 2], chain: &[Buffer]| {
        memory.write_slice(&command, GuestAddress(BUFFERS)).unwrap();
        memory.write_slice(&[9], GuestAddress(BUFFERS + 0x100)).unwrap();
        let (mut queue, seen) = queue_with_chains(&memory, &[chain]).split();
        control::serve(&mut queue, link).unwrap();
        (seen.used(), memory.read_obj::<u8>(GuestAddress(BUFFERS + 0x100)).unwrap())
    };
    assert_eq!(answers([0, 0], &[ours, answer]), (vec![(0, 1)], 1));
    assert_eq!(link.config().bytes()[6], 3);
    assert_eq!(answers([3, 0], &[(BUFFERS, 1, 0), answer]), (vec![(0, 0)], 9));
    assert_eq!(answers([3, 0], &[ours, answer]), (vec![(0, 1)], 0));
    assert_eq!(link.config().bytes()[6], 1);
    assert_eq!(answers([3, 0], &[ours]), (vec![(0, 0)], 9));
}

#[test]
fn link_that_is_down_lets_nothing_through() {
    let mut setting = setting(&spec(), &ALL, &[FRAME; 2], &[]);
    setting.await_figure("tx_packets", 2);
    setting.net.change(DeviceChange::Link(false)).unwrap();
    assert_eq!(setting.status(), 0);
    // What comes in the midst of a turn that has begun before passes.
    let mut passed = 0;
    while setting.figure("rx_dropped") == 0 {
        assert!(setting.host.send(&frame(70)));
        while setting.figure("rx_dropped") == 0 && setting.figure("rx_packets") == passed {
            yield_now();
        }
        passed = setting.figure("rx_packets");
        assert!(passed <= 64, "a turn is no longer than that");
    }
    setting.net.change(DeviceChange::Link(true)).unwrap();
    assert_eq!(setting.status(), 1);
    assert!(setting.host.send(&frame(70)));
    setting.await_figure("rx_packets", passed + 1);
}

#[test]
fn tap_that_is_gone_is_a_link_that_is_down_and_no_failure() {
    let Setting { net, host, failures, tx: (_, _, kick), .. } = setting(&spec(), &ALL, &[], &[]);
    drop(host);
    while net.config().bytes()[6] != 0 {
        yield_now();
    }
    kick.write(1).unwrap();
    drop(net);
    assert!(failures.told().is_empty());
}

#[test]
fn guest_without_buffers_keeps_frames_waiting_and_nobody_busy() {
    let setting = setting(&spec(), &[BUFFER], &[FRAME], &[]);
    while setting.host.send(&frame(70)) {}
    setting.await_figure("tx_packets", 1);
    assert_eq!((setting.figure("rx_packets"), setting.figure("rx_dropped")), (0, 0));
}

#[test]
fn rate_holds_frames_back_and_lets_them_through_later() {
    let tx = Some(RateSpec { bytes: None, packets: NonZeroU64::new(50) });
    let setting = setting(&NetSpec { tx, ..spec() }, &[], &[FRAME; 10], &[]);
    setting.await_figure("tx_packets", 10);
    assert!(setting.figure("tx_limited") > 0);
    for _ in 0..10 {
        assert!(setting.host.receive().is_some());
    }
}

#[test]
fn driver_that_begins_anew_has_no_more_of_the_rate() {
    let tx = Some(RateSpec { bytes: NonZeroU64::new(1), packets: None });
    // A burst is one frame of the longest: it is overdrawn by the fourth of these.
    let large: &[Buffer] = &[(BUFFERS, 20_000, 0)];
    let mut setting = setting(&NetSpec { tx, ..spec() }, &[], &[large; 5], &[]);
    setting.await_figure("tx_limited", 1);
    assert_eq!(setting.figure("tx_packets"), 4);
    let Suspended { queues, .. } = setting.net.suspend().unwrap();
    let queues = queues.into_iter().map(Some).collect();
    let interrupt = interrupt(&setting.failures);
    setting.net.activate(Activation { queues, memory: memory(), interrupt, features: FEATURES }).unwrap();
    while setting.figure("tx_limited") < 2 {
        assert_eq!(setting.figure("tx_packets"), 4);
        yield_now();
    }
}

#[test]
fn driver_without_a_control_queue_is_served_and_one_without_the_others_is_not() {
    let (tap, host) = tap();
    let failures = Failures::default();
    let mut net = Net::on(&spec(), tap, failures.sink()).unwrap();
    let [rx_memory, tx_memory] = [memory(), memory()];
    let mut queues = vec![Some(queue_with_chains(&rx_memory, &ALL).queue), None, None];
    let activation = |queues| Activation {
        queues,
        memory: memory(),
        interrupt: interrupt(&failures),
        features: 1 << VIRTIO_NET_F_MRG_RXBUF,
    };
    assert!(matches!(net.activate(activation(queues)), Err(ActivateError::Queues { expected: 2, found: 1 })));
    queues = vec![
        Some(queue_with_chains(&rx_memory, &ALL).queue),
        Some(queue_with_chains(&tx_memory, &[FRAME]).queue),
        None,
    ];
    net.activate(activation(queues)).unwrap();
    while host.receive().is_none() {
        yield_now();
    }
}

#[test]
fn broken_ring_ends_the_session_with_the_reason() {
    let memory = memory();
    let (tap, _host) = tap();
    let failures = Failures::default();
    let mut net = Net::on(&spec(), tap, failures.sink()).unwrap();
    let (tx, rx) = (queue_with_chains(&memory, &[]).queue, queue_with_chains(&self::memory(), &[]).queue);
    // More than there can be.
    memory.write_obj(300u16, GuestAddress(16 * 16 + 2)).unwrap();
    let queues = vec![Some(rx), Some(tx), None];
    let interrupt = interrupt(&failures);
    net.activate(Activation { queues, memory, interrupt, features: 0 }).unwrap();
    net.thread.await_end();
    let told = failures.told();
    assert!(
        told.len() == 1 && told[0].starts_with("virtio-net: the guest's virtqueue is broken"),
        "{told:?}"
    );
}

#[test]
fn descriptor_that_is_no_tap_makes_no_device() {
    let (socket, _other) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let made = Net::new(&spec(), Frames::Tap(socket.into()), Failures::default().sink());
    assert!(matches!(made, Err(NetError::NoTap(_))));
}
