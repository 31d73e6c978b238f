//! A container whose program does operations when it is told to.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use super::IoArgs;
use crate::process::output;

/// One that runs until this is dropped.
pub(super) struct Container {
    runtime: PathBuf,
    store: PathBuf,
    id: String,
    process: Child,
    /// Without it the program ends.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    pid_file: PathBuf,
}

impl Container {
    pub(super) fn start(
        name: &str,
        program: &Path,
        options: &[&str],
        args: &IoArgs,
    ) -> Result<Self, Box<dyn Error>> {
        let folder = args.scratch.join(name);
        let (rootfs, data, store) = (folder.join("rootfs"), folder.join("data"), folder.join("store"));
        for folder in [rootfs.join("data"), rootfs.join("proc"), rootfs.join("dev"), data.clone()] {
            fs::create_dir_all(folder)?;
        }
        fs::copy(&args.program, rootfs.join("io-program"))?;
        fs::write(folder.join("config.json"), config(&data).to_string())?;
        let (id, pid_file) = (format!("bench-io-{name}"), folder.join("pid"));
        let mut command = runtime(program, &store, &["run"]);
        command.args(options).arg("--pid-file").arg(&pid_file).arg("--bundle").arg(&folder).arg(&id);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(orders), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
            return Err("the container has no standard streams".into());
        };
        let mut container = Self {
            runtime: program.to_owned(),
            store,
            id,
            process,
            orders: Some(orders),
            answers: BufReader::new(answers),
            pid_file,
        };
        container.tell("nothing 0")?;
        Ok(container)
    }

    /// Has the program do something; returns what it says.
    pub(super) fn tell(&mut self, order: &str) -> Result<String, Box<dyn Error>> {
        let orders = self.orders.as_mut().ok_or("the container has ended")?;
        writeln!(orders, "{order}")?;
        orders.flush()?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        let said = answer.strip_prefix("done ").ok_or_else(|| format!("{}: {order}: {answer:?}", self.id))?;
        Ok(said.trim().to_owned())
    }

    /// The process that runs the machine.
    pub(super) fn machine_pid(&self) -> Result<u32, Box<dyn Error>> {
        Ok(fs::read_to_string(&self.pid_file)?.trim().parse()?)
    }

    /// Requests that the file server has had, by kind, and its kicks and interrupts.
    pub(super) fn requests(&self) -> Result<BTreeMap<String, u64>, Box<dyn Error>> {
        let said = output(&mut runtime(&self.runtime, &self.store, &["events", "--stats", &self.id]))?;
        let said: Value = serde_json::from_str(&said)?;
        Ok(serde_json::from_value(said["data"]["dev.vmrun.file_server"].clone())?)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Err(error) = self.process.wait() {
            eprintln!("vmrun-bench: cannot wait for {}: {error}", self.id);
        }
    }
}

fn runtime(program: &Path, store: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.arg("--root").arg(store).args(words);
    command
}

fn config(data: &Path) -> Value {
    let bind = json!({"destination": "/data", "type": "bind", "source": data, "options": ["rbind"]});
    let dev = json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]});
    json!({
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["/io-program"], "env": ["PATH=/"], "cwd": "/"},
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}, dev, bind],
        "linux": {"namespaces": [
            {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}
        ]}
    })
}
