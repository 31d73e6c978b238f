//! A kernel that drives one device, and breaks its rules.
//!
//! No program can do that, since the guest's kernel gives nobody a device's registers. So this is a
//! kernel of a few instructions: it writes 32-bit words to addresses, one after the other, and halts.

/// Where the registers of the machine's devices lie, and how many bytes each has.
const DEVICES: u32 = 0xd000_0000;
const WINDOW: u32 = 0x1000;
/// Where the kernel is loaded.
const LOAD: u32 = 0x10_0000;
/// Where its queues lie: descriptors, available ring, used ring, one buffer.
const DESCRIPTORS: u32 = 0x20_0000;
const AVAILABLE: u32 = 0x21_0000;
const USED: u32 = 0x22_0000;
const BUFFER: u32 = 0x23_0000;

/// Registers of a device (virtio 1.2, §4.2.2).
const DRIVER_FEATURES: u32 = 0x20;
const DRIVER_FEATURES_SEL: u32 = 0x24;
const QUEUE_SEL: u32 = 0x30;
const QUEUE_NUM: u32 = 0x38;
const QUEUE_READY: u32 = 0x44;
const QUEUE_NOTIFY: u32 = 0x50;
const STATUS: u32 = 0x70;
const QUEUE_DESC_LOW: u32 = 0x80;
const QUEUE_DESC_HIGH: u32 = 0x84;
const QUEUE_AVAIL_LOW: u32 = 0x90;
const QUEUE_USED_LOW: u32 = 0xa0;

/// What the driver does that it must not.
#[derive(Clone, Copy)]
pub(crate) enum Crime {
    /// Its queues lie outside the memory.
    QueueNowhere,
    /// It says that there are more buffers than the queue has room for.
    TooManyBuffers,
    /// The buffers of its queues are of eight bytes that the device may read.
    ShortBuffer,
}

/// hlt, again and again
const HALT: [u8; 3] = [0xf4, 0xeb, 0xfd];

/// An image of a kernel that commits `crime` against device number `device`, which has `queues` queues.
pub(crate) fn rogue_kernel(device: u32, queues: u32, crime: Crime) -> Vec<u8> {
    let mut code = Vec::new();
    let mut write = |address: u32, value: u32| {
        // mov eax, address; mov dword [rax], value
        code.extend([&[0xb8][..], &address.to_le_bytes(), &[0xc7, 0x00], &value.to_le_bytes()].concat());
    };
    // The page tables at the entry map the first GiB; one more table maps what the devices have.
    write(0xa018, 0xc003);
    write(0xc400, DEVICES | 0x83);
    let base = DEVICES + device * WINDOW;
    write(base + STATUS, 1);
    write(base + STATUS, 3);
    // VIRTIO_F_VERSION_1 is bit 32.
    write(base + DRIVER_FEATURES_SEL, 1);
    write(base + DRIVER_FEATURES, 1);
    write(base + STATUS, 11);
    for queue in 0..queues {
        let apart = queue * 0x1000;
        let available = match crime {
            Crime::TooManyBuffers => 100,
            Crime::QueueNowhere | Crime::ShortBuffer => 1,
        };
        // Address and length of the one descriptor; flags, then the number of buffers.
        write(DESCRIPTORS + apart, BUFFER);
        write(DESCRIPTORS + apart + 8, 8);
        write(AVAILABLE + apart, available << 16);
        write(base + QUEUE_SEL, queue);
        write(base + QUEUE_NUM, 8);
        write(base + QUEUE_DESC_LOW, DESCRIPTORS + apart);
        write(base + QUEUE_DESC_HIGH, u32::from(matches!(crime, Crime::QueueNowhere)));
        write(base + QUEUE_AVAIL_LOW, AVAILABLE + apart);
        write(base + QUEUE_USED_LOW, USED + apart);
        write(base + QUEUE_READY, 1);
    }
    write(base + STATUS, 15);
    for queue in 0..queues {
        write(base + QUEUE_NOTIFY, queue);
    }
    code.extend(HALT);
    elf(&code)
}

/// An image of a kernel that prints `text`, which is short, and does nothing more.
pub(crate) fn silent_kernel(text: &str) -> Vec<u8> {
    const SERIAL_PORT: u16 = 0x3f8;
    // mov dx, port; for each byte: mov al, byte; out dx, al
    let [low, high] = SERIAL_PORT.to_le_bytes();
    let mut code = vec![0x66, 0xba, low, high];
    code.extend(text.bytes().flat_map(|byte| [0xb0, byte, 0xee]));
    code.extend(HALT);
    elf(&code)
}

/// The smallest kernel with this code.
fn elf(code: &[u8]) -> Vec<u8> {
    const HEADERS: u32 = 64 + 56;
    let length = u64::try_from(code.len()).unwrap();
    let [load, headers] = [u64::from(LOAD), u64::from(HEADERS)];
    let mut image = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // ET_EXEC, EM_X86_64, version, entry, program headers, no sections, flags, sizes.
    for half in [2u16, 62] {
        image.extend(half.to_le_bytes());
    }
    image.extend(1u32.to_le_bytes());
    for word in [load, 64, 0] {
        image.extend(word.to_le_bytes());
    }
    image.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 64, 0, 0] {
        image.extend(half.to_le_bytes());
    }
    // PT_LOAD, readable and executable.
    for half in [1u32, 5] {
        image.extend(half.to_le_bytes());
    }
    for word in [headers, load, load, length, length, 0x1000] {
        image.extend(word.to_le_bytes());
    }
    image.extend(code);
    image
}
