//! Man pages and shell completions, from the command line's own definition.
//!
//! ```text
//! cargo run -p vmrun --example documents -- DIR
//!   DIR/man/vmrun.1, vmrun-VERB.1
//!   DIR/completions/vmrun.bash, _vmrun, vmrun.fish
//! ```
//!
//! An example and not a hidden verb: what is shipped carries neither the
//! generators nor their output. The command line is a program's and no library,
//! so its modules are compiled in here once more.

#![allow(dead_code, reason = "of the verbs only the options are used")]

#[path = "../src/args.rs"]
mod args;
#[path = "../src/embedded.rs"]
mod embedded;
#[path = "../src/globals.rs"]
mod globals;
#[path = "../src/ps/mod.rs"]
mod ps;
#[path = "../src/verbs/mod.rs"]
mod verbs;

use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;

const NAME: &str = "vmrun";

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: documents DIR")?);
    let mut command = args::Args::command();
    command.build();
    man_pages(&command, &folder.join("man"))?;
    completions(&mut command, &folder.join("completions"))
}

/// One page for the program and one for each verb that `--help` shows.
fn man_pages(command: &Command, folder: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    man_page(command.clone(), NAME, folder)?;
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help") {
        let name = format!("{NAME}-{}", verb.get_name());
        // The name in the page's head; its synopsis has the words as they are typed.
        man_page(verb.clone().display_name(name.clone()), &name, folder)?;
    }
    Ok(())
}

fn man_page(command: Command, name: &str, folder: &Path) -> Result<(), Box<dyn Error>> {
    // Of the version, which has several lines, the number alone.
    let command = command.version(env!("CARGO_PKG_VERSION")).disable_help_subcommand(true);
    let page = Man::new(command).title(name.to_uppercase()).section("1").manual("vmrun");
    Ok(page.render(&mut File::create(folder.join(format!("{name}.1")))?)?)
}

fn completions(command: &mut Command, folder: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, command, NAME, folder)?;
    }
    Ok(())
}
