use std::io::ErrorKind::ConnectionReset;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Command;
use std::time::Duration;

use event_manager::{EventManager, SubscriberOps};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::super::header::op;
use super::super::test_host::{TestHost, guest_sends, next};
use super::*;
use crate::event_loop::LoopSubscriber;
use crate::virtio::test_queue::{BUFFERS, Buffer, WRITE, memory, queue_with};

fn timer() -> Timer {
    let descriptor = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK).unwrap();
    Timer { descriptor: Arc::new(descriptor), armed: false }
}

/// A device whose guest offers `chain` to receive into.
fn worker(muxer: Muxer, rx: &Memory, chain: &[Buffer]) -> VsockWorker {
    let idle = memory();
    VsockWorker {
        rx: queue_with(rx, chain).queue,
        tx: queue_with(&idle, &[]).queue,
        event: queue_with(&idle, &[]).queue,
        muxer,
        timer: timer(),
        scratch: Box::default(),
        failed: false,
    }
}

/// What is read from a chain: `Ok` with the data, `Err` if the header's data is not there.
fn read(memory: &Memory, chain: &[Buffer]) -> Option<Result<Vec<u8>, ()>> {
    let mut scratch = vec![0; usize::try_from(MAX_PACKET_BYTES).unwrap()];
    let mut result = None;
    let drained = queue_with(memory, chain).queue.drain(|memory, chain| {
        result = match read_packet(memory, chain, &mut scratch) {
            Packet::Whole(_, data) => Some(Ok(data.to_vec())),
            Packet::Short(_) => Some(Err(())),
            Packet::NoHeader => None,
        };
        Ok::<_, QueueError>(0)
    });
    drained.ok().and(result)
}

fn write_header(memory: &Memory, len: u32) {
    let header = Header { op: op::RW, len, ..Header::default() };
    memory.write_slice(&header.to_bytes(), GuestAddress(BUFFERS)).unwrap();
}

#[test]
fn packet_spread_over_many_descriptors_is_put_together() {
    let memory = memory();
    write_header(&memory, 9000);
    let data: Vec<u8> = (0..9000u32).map(|index| index.to_le_bytes()[0]).collect();
    memory.write_slice(&data[..4000], GuestAddress(BUFFERS + 0x4000)).unwrap();
    memory.write_slice(&data[4000..], GuestAddress(BUFFERS + 0x1000)).unwrap();
    let chain = [(BUFFERS, 44, 0), (BUFFERS + 0x4000, 4000, 0), (BUFFERS + 0x1000, 5000, 0)];
    assert_eq!(read(&memory, &chain), Some(Ok(data)));
}

#[test]
fn header_that_promises_more_than_there_is_or_may_be_is_short() {
    let memory = memory();
    write_header(&memory, 100);
    assert_eq!(read(&memory, &[(BUFFERS, 44, 0), (BUFFERS + 0x1000, 99, 0)]), Some(Err(())));
    write_header(&memory, MAX_PACKET_BYTES + 1);
    assert_eq!(read(&memory, &[(BUFFERS, 44, 0), (BUFFERS + 0x1000, 0x1_1000, 0)]), Some(Err(())));
    assert_eq!(read(&memory, &[(BUFFERS, 43, 0)]), None);
}

#[test]
fn receive_buffer_without_room_for_data_is_nonsense() {
    let host = TestHost::new();
    let mut muxer = host.muxer();
    guest_sends(&mut muxer, 7, op::REQUEST, &[]);
    assert_eq!(next(&mut muxer).unwrap().op, op::RESPONSE);
    (&host.peer).write_all(b"data").unwrap();

    let memory = memory();
    let mut worker = worker(muxer, &memory, &[(BUFFERS, 44, WRITE), (BUFFERS + 0x1000, 0, WRITE)]);
    assert!(worker.fill_receive().unwrap_err().to_string().contains("receive buffer"));
}

#[test]
fn packet_without_a_header_fails_the_device_and_is_told() {
    let host = TestHost::new();
    let [idle, busy] = [memory(), memory()];
    let mut worker = worker(host.muxer(), &idle, &[]);
    let tx = queue_with(&busy, &[(BUFFERS, 43, 0)]);
    let failures = tx.failures();
    worker.tx = tx.queue;
    let served = worker.serve_transmit();
    assert!(served.is_err());
    worker.tx.fail(NAME, &served.unwrap_err());
    assert_eq!(failures.told(), ["virtio-vsock: the guest sent a vsock packet without a header"]);
}

#[test]
fn timer_goes_off_for_the_first_deadline_and_is_quiet_without_one() {
    let host = TestHost::new();
    let mut worker = worker(host.muxer(), &memory(), &[]);
    let now = Instant::now();
    worker.arm(now).unwrap();
    assert!(!worker.timer.armed);
    let _client = UnixStream::connect(host.socket()).unwrap();
    worker.muxer.clients_arrived();
    // Long ago: its time is over.
    let long_ago = now.checked_sub(2 * super::super::REQUEST_LIMIT).unwrap();
    worker.muxer.accept(long_ago);
    worker.arm(now).unwrap();
    assert!(worker.timer.armed);
    worker.expire().unwrap();
    assert!(!worker.timer.armed);
    assert_eq!(worker.muxer.next_deadline(), None);
}

/// Takes all descriptors that the process may have.
fn take_all_descriptors() -> Vec<UnixDatagram> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 64, hard).unwrap();
    std::iter::from_fn(|| UnixDatagram::unbound().ok()).collect()
}

/// In a process of its own: others would miss the descriptors, too.
#[test]
fn client_for_whom_there_is_no_descriptor_waits_and_keeps_nobody_busy() {
    const CHILD: &str = "VMRUN_VSOCK_WITHOUT_DESCRIPTORS";
    if std::env::var_os(CHILD).is_none() {
        let name = "client_for_whom_there_is_no_descriptor_waits_and_keeps_nobody_busy";
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", &format!("virtio::vsock::device::tests::{name}")]).env(CHILD, "1");
        let output = again.output().unwrap();
        return assert!(output.status.success(), "{output:?}");
    }
    let host = TestHost::new();
    let worker = worker(host.muxer(), &memory(), &[]);
    let kick = worker.rx.kick().try_clone().unwrap();
    let mut events = EventManager::<LoopSubscriber>::new().unwrap();
    events.add_subscriber(Box::new(worker));
    let flags = SockFlag::empty();
    let [first, second] =
        [(); 2].map(|()| socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap());
    let connect = |client: &OwnedFd| {
        connect(client.as_raw_fd(), &UnixAddr::new(&host.socket()).unwrap()).unwrap();
    };
    let all = take_all_descriptors();
    connect(&first);
    assert_eq!(events.run_with_timeout(1000).unwrap(), 1);
    assert_eq!(events.run_with_timeout(50).unwrap(), 0);
    connect(&second);
    assert_eq!(events.run_with_timeout(1000).unwrap(), 1);
    assert_eq!(events.run_with_timeout(50).unwrap(), 0);
    drop(all);
    // Both are taken at the next event, whatever it is. What they say is refused.
    let clients = [first, second].map(UnixStream::from);
    for mut client in &clients {
        client.write_all(b"nonsense\n").unwrap();
    }
    kick.write(1).unwrap();
    assert_eq!(events.run_with_timeout(1000).unwrap(), 1);
    for mut client in &clients {
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        // The end, or a reset where the refused line had not been read.
        assert!(matches!(client.read(&mut [0]).map_err(|error| error.kind()), Ok(0) | Err(ConnectionReset)));
    }
}

proptest! {
    #[test]
    fn arbitrary_chains_never_panic(len: u32, chain in prop::collection::vec((0u64..0x2_1000, any::<u32>(), 0u16..8), 0..8)) {
        let memory = memory();
        write_header(&memory, len);
        let _ = read(&memory, &chain);
    }
}
