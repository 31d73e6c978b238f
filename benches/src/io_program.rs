//! The program in the container of `make bench-io`: does operations on files when it is told to.
//!
//! It reads lines `OPERATION COUNT` and answers each with a line. What an operation needs is made by
//! `prepare OPERATION COUNT` before, on which nobody counts.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::stat;

/// Bytes of a page.
const PAGE: usize = 4096;
/// Distance of cold reads: further than the kernel reads ahead.
const APART: u64 = 1 << 20;

/// A file that has not changed for so long may be kept.
const SETTLED: Duration = Duration::from_secs(3);

fn main() -> Result<(), Box<dyn Error>> {
    let mut place = Place { directory: "/data".into(), held: Vec::new() };
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let said = match words[..] {
            ["prepare", operation, count] => place.prepare(operation, count.parse()?).map(|()| String::new()),
            ["storm", _, count] => place.storm(count.parse()?),
            [operation, count] => place.perform(operation, count.parse()?).map(|()| String::new()),
            _ => return Err(format!("cannot make sense of {line:?}").into()),
        }
        .map_err(|error| format!("{line}: {error}"))?;
        println!("done {said}");
    }
    Ok(())
}

struct Place {
    directory: PathBuf,
    held: Vec<File>,
}

impl Place {
    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("file-{number}"))
    }

    fn make(&self, count: u64) -> io::Result<()> {
        (0..count).try_for_each(|number| fs::write(self.path(number), [7; PAGE]))
    }

    fn prepare(&mut self, operation: &str, count: u64) -> io::Result<()> {
        self.held.clear();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        match operation {
            "stat_cold" | "stat_birth_cold" | "open_cold" | "readdir" | "unlink" | "rename" | "open"
            | "open_read_close" => {
                self.make(count)?;
            }
            "stat_known" | "write" | "append" => self.make(1)?,
            "close" => {
                self.make(count)?;
                self.held =
                    (0..count).map(|number| File::open(self.path(number))).collect::<io::Result<_>>()?;
            }
            "read_cold" => File::create(self.path(0))?.set_len(count * APART)?,
            "rmdir" => (0..count).try_for_each(|number| fs::create_dir(self.path(number)))?,
            _ => {}
        }
        match operation {
            // The kernel forgets what it knows of them.
            "stat_cold" | "stat_birth_cold" | "open_cold" => fs::write("/proc/sys/vm/drop_caches", "3")?,
            "write" | "append" | "read_cold" => self.held.push(self.open_one(operation)?),
            "open_read_close" => {
                // What has changed just now is not kept: it may change once more and look the same.
                while fs::metadata(self.path(count - 1))?.modified()?.elapsed().unwrap_or_default() < SETTLED
                {
                    sleep(SETTLED);
                }
                (0..count).try_for_each(|number| fs::read(self.path(number)).map(drop))?;
            }
            "stat_known" => stat(self.path(0)).map(|_| ())?,
            "unlink" | "rename" | "open" | "rmdir" => {
                (0..count).try_for_each(|number| stat(self.path(number)).map(drop))?;
            }
            _ => {}
        }
        Ok(())
    }

    fn open_one(&self, operation: &str) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(operation != "read_cold").append(operation == "append");
        options.open(self.path(0))
    }

    fn perform(&mut self, operation: &str, count: u64) -> io::Result<()> {
        let mut page = [0; PAGE];
        for number in 0..count {
            let path = self.path(number);
            match operation {
                "nothing" => {}
                "create" => drop(File::create(path)?),
                "create_write" => fs::write(path, page)?,
                "create_exclusive" => drop(File::create_new(path)?),
                "mkdir" => fs::create_dir(path)?,
                "rmdir" => fs::remove_dir(path)?,
                "stat_known" => stat(self.path(0)).map(|_| ())?,
                "stat_cold" => stat(path).map(|_| ())?,
                "stat_birth_cold" => fs::metadata(path).map(|_| ())?,
                "open" | "open_cold" => self.held.push(File::open(path)?),
                "close" => drop(self.held.pop()),
                "open_read_close" => drop(File::open(path)?.read(&mut page)?),
                "read_cold" => self.held[0].read_exact_at(&mut page, number * APART)?,
                "write" => self.held[0].write_all_at(&page, number * PAGE as u64)?,
                "append" => self.held[0].write_all(&page)?,
                "unlink" => fs::remove_file(path)?,
                "rename" => fs::rename(&path, path.with_extension("new"))?,
                "readdir" => drop(fs::read_dir(&self.directory)?.count()),
                _ => return Err(io::Error::other("no such operation")),
            }
        }
        Ok(())
    }

    /// Makes, looks at and removes so many files; tells the seconds of each.
    fn storm(&mut self, count: u64) -> Result<String, io::Error> {
        self.prepare("create", 0)?;
        let timed = |act: &dyn Fn(PathBuf) -> io::Result<()>| {
            let begun = Instant::now();
            (0..count).try_for_each(|number| act(self.path(number)))?;
            Ok::<_, io::Error>(begun.elapsed().as_secs_f64())
        };
        let create = timed(&|path| File::create(path).map(drop))?;
        let stat = timed(&|path| Ok(stat(path).map(drop)?))?;
        let unlink = timed(&|path| fs::remove_file(path))?;
        Ok(format!("{create} {stat} {unlink}"))
    }
}
