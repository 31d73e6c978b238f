//! Directories as programs list them.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{BOTH, Bundle, Mounted, Scratch};

/// More than is listed at once, on any file system; and several times that.
const SOME: usize = 600;
const MANY: usize = 2500;

fn fill(directory: &Path, files: usize) {
    fs::create_dir(directory).unwrap();
    for number in 0..files {
        fs::write(directory.join(format!("file-{number}")), "").unwrap();
    }
}

#[test]
fn nothing_is_left_out_when_what_is_listed_is_removed() {
    let scratch = Scratch::new();
    let image = scratch.file("image", "");
    fs::File::options().write(true).open(&image).unwrap().set_len(64 << 20).unwrap();
    for command in [["modprobe", "loop", ""], ["mkfs.ext4", "-q", image.to_str().unwrap()]] {
        let words = command[1..].iter().filter(|word| !word.is_empty());
        assert!(Command::new(command[0]).args(words).status().unwrap().success(), "{command:?}");
    }
    let ext4 = Mounted::new(&["-t", "ext4", "-o", "loop", image.to_str().unwrap()], &scratch.join("ext4"));
    let tmpfs = Mounted::new(&["-t", "tmpfs", "tmpfs"], &scratch.join("tmpfs"));
    // busybox's program removes while it lists.
    let script = "cd /place; ls -A by-rm | wc -l; rm -r by-rm; ls";
    let program = "import os, shutil
print(len(os.listdir('/place/by-python')))
shutil.rmtree('/place/by-python')
print(os.listdir('/place'))";
    for runtime in BOTH {
        let layers = Mounted::new(&["-t", "tmpfs", "tmpfs"], &scratch.join("layers"));
        let layer = |name: &str| layers.path().join(name);
        ["lower", "upper", "work"].iter().for_each(|name| fs::create_dir(layer(name)).unwrap());
        fill(&layer("lower").join("by-rm"), SOME);
        let options = ["lower", "upper", "work"].map(|name| format!("{name}dir={}", layer(name).display()));
        let overlay = &["-t", "overlay", "-o", &options.join(","), "overlay"];
        let overlay = Mounted::new(overlay, &scratch.join("overlay"));
        for (place, files, shown) in [
            (&ext4, MANY, format!("{MANY}\nlost+found\n")),
            (&tmpfs, MANY, format!("{MANY}\n")),
            (&overlay, SOME, format!("{SOME}\n")),
        ] {
            if files == MANY {
                fill(&place.path().join("by-rm"), files);
            }
            Bundle::shell(script).bind(place.path(), "/place", &[]).run_on(runtime).prints(&shown);
        }
        fill(&tmpfs.path().join("by-python"), SOME);
        let shown = format!("{SOME}\n[]\n");
        Bundle::python(program).bind(tmpfs.path(), "/place", &[]).run_on(runtime).prints(&shown);
    }
}

#[test]
fn open_directory_has_a_place_can_be_rewound_and_shows_what_is_new() {
    let program = "import ctypes, os
libc = ctypes.CDLL(None)
class Entry(ctypes.Structure):
    _fields_ = [('ino', ctypes.c_uint64), ('next', ctypes.c_int64), ('length', ctypes.c_uint16),
                ('kind', ctypes.c_uint8), ('name', ctypes.c_char * 256)]
libc.opendir.restype = ctypes.c_void_p
libc.readdir.restype = ctypes.POINTER(Entry)
libc.telldir.restype = ctypes.c_long
for call in (libc.readdir, libc.telldir, libc.rewinddir):
    call.argtypes = [ctypes.c_void_p]
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
def rest(stream):
    names = []
    while entry := libc.readdir(stream):
        names.append(entry.contents.name.decode())
    return names
os.mkdir('/data/d')
for number in range(1000):
    open(f'/data/d/{number}', 'w').close()
one, other = libc.opendir(b'/data/d'), libc.opendir(b'/data/d')
first = [libc.readdir(one).contents.name.decode() for _ in range(300)]
place = libc.telldir(one)
left = rest(one)
print(len(set(first + left)), sorted(rest(other)) == sorted(first + left))
libc.seekdir(one, place)
print(rest(one) == left)
open('/data/d/new', 'w').close()
libc.rewinddir(one)
print('new' in rest(one), sorted(os.listdir('/data/d')) == sorted(set(first + left + ['new']) - {'.', '..'}))
libc.rewinddir(one)
for name in rest(one)[:500]:
    if name not in ('.', '..'):
        os.unlink('/data/d/' + name)
libc.rewinddir(one)
print(len(rest(one)) == 2 + len(os.listdir('/data/d')))
";
    for runtime in BOTH {
        let scratch = Scratch::new();
        let bundle = Bundle::python(program).bind(scratch.path(), "/data", &[]);
        bundle.run_on(runtime).prints("1002 True\nTrue\nTrue True\nTrue\n");
    }
}

#[test]
fn list_goes_on_while_others_remove_what_it_shows() {
    let scratch = Scratch::new();
    let directory = scratch.join("d");
    fill(&directory, SOME);
    let bundle =
        Bundle::shell("cd /data/d; while [ -n \"$(ls -l . | grep -v ^total)\" ]; do :; done; echo none")
            .bind(scratch.path(), "/data", &[]);
    let started = crate::support::Run::of(&bundle).start();
    for number in (0..SOME).rev() {
        fs::remove_file(directory.join(format!("file-{number}"))).unwrap();
    }
    started.finish().prints("none\n");
}
