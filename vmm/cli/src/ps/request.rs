//! The options of `ps`: which processes, and which columns.
//!
//! As in procps a word with one dash holds options of Unix, one with two a long option, one without
//! those of BSD; what cannot be read so is read again as if BSD's had been meant, so `-aux` is `aux`.

use std::collections::VecDeque;

use super::columns::{self, Column};
use super::formats::{Bsd, Format};
use super::row::Row;
use super::{Facts, Refusal};

/// A column that was asked for, under its header.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) column: &'static Column,
    pub(super) header: String,
}

/// Processes that are asked for; one that any of these means is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    All,
    WithTerminal,
    NotLeader,
    Pids(Vec<i64>),
    Parents(Vec<i64>),
    Sessions(Vec<i64>),
    Users(usize, Vec<u32>),
    Groups(usize, Vec<u32>),
    Names(Vec<String>),
    Terminals(Vec<String>),
}

/// What the options ask for.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) columns: Vec<Chosen>,
    pub(super) header: bool,
    /// Users and groups by their numbers.
    pub(super) numeric: bool,
    wanted: Vec<Wanted>,
    all_but: bool,
    only_running: bool,
    /// Columns, and whether from the largest down.
    order: Vec<(&'static Column, bool)>,
}

impl Request {
    pub(super) fn read(words: &[String], facts: &Facts) -> Result<Self, Refusal> {
        Reader::new(words, facts, false).read().or_else(|refusal| {
            // The first answer is about what was typed.
            let again: Vec<_> = words.iter().map(|word| word.trim_start_matches('-').to_owned()).collect();
            Reader::new(&again, facts, true).read().map_err(|_| refusal)
        })
    }

    /// Without a choice all: whose terminal a process has, and whose the caller's is, means nothing
    /// where one is in a guest.
    pub(super) fn wants(&self, row: &Row<'_>) -> bool {
        let chosen = self.wanted.is_empty() || self.wanted.iter().any(|wanted| wanted.means(row));
        (chosen != self.all_but) && (!self.only_running || matches!(row.state(), 'R' | 'D'))
    }

    pub(super) fn sort(&self, rows: &mut [Row<'_>]) {
        for (column, down) in self.order.iter().rev() {
            let compare = |one: &Row<'_>, other: &Row<'_>| {
                let (one, other) = ((column.value)(one), (column.value)(other));
                match (one.parse::<f64>(), other.parse::<f64>()) {
                    (Ok(one), Ok(other)) => one.total_cmp(&other),
                    _ => one.cmp(&other),
                }
            };
            rows.sort_by(|one, other| if *down { compare(other, one) } else { compare(one, other) });
        }
    }
}

impl Wanted {
    fn means(&self, row: &Row<'_>) -> bool {
        let number = |field: usize| row.field(field).unwrap_or(-1);
        let (pid, parent) = (i64::from(row.info.pid), i64::from(row.info.parent));
        match self {
            Self::All => true,
            Self::WithTerminal => row.info.terminal != "?" && number(6) != pid,
            Self::NotLeader => number(6) != pid,
            Self::Pids(pids) => pids.contains(&pid),
            Self::Parents(pids) => pids.contains(&parent),
            Self::Sessions(pids) => pids.contains(&number(6)),
            Self::Users(place, ids) => row.id("Uid", *place).is_some_and(|id| ids.contains(&id)),
            Self::Groups(place, ids) => row.id("Gid", *place).is_some_and(|id| ids.contains(&id)),
            Self::Names(names) => names.contains(&row.info.name),
            Self::Terminals(names) => names.iter().any(|name| is_terminal(name, &row.info.terminal)),
        }
    }
}

/// `0`, `pts/0` or `/dev/pts/0`; a dash or a question mark is none.
fn is_terminal(name: &str, terminal: &str) -> bool {
    let name = name.trim_start_matches("/dev/");
    let name = if name == "-" { "?" } else { name };
    name == terminal || terminal.strip_prefix("pts/").is_some_and(|number| number == name)
}

const THREADS: &str = "the processes of a guest are listed, not their threads";
const TREES: &str = "the processes of a guest are listed without a tree";
const UNKNOWN: &str = "ps has no such option, or it has no meaning for a guest";

/// Reads words.
struct Reader<'f> {
    words: VecDeque<String>,
    facts: &'f Facts,
    only_bsd: bool,
    format: Format,
    unix: bool,
    lists: String,
    around: Option<&'static str>,
    all: (bool, bool),
    name_only: bool,
    request: Request,
}

impl<'f> Reader<'f> {
    fn new(words: &[String], facts: &'f Facts, only_bsd: bool) -> Self {
        let request = Request {
            columns: Vec::new(),
            header: true,
            numeric: false,
            wanted: Vec::new(),
            all_but: false,
            only_running: false,
            order: Vec::new(),
        };
        Self {
            words: words.iter().cloned().collect(),
            facts,
            only_bsd,
            format: Format::default(),
            unix: false,
            lists: String::new(),
            around: None,
            all: (false, false),
            name_only: false,
            request,
        }
    }

    fn read(mut self) -> Result<Request, Refusal> {
        while let Some(word) = self.words.pop_front() {
            if let Some(long) = word.strip_prefix("--") {
                self.long(&word, long)?;
            } else if let Some(letters) = word.strip_prefix('-') {
                self.unix = true;
                self.unix(&word, letters)?;
            } else {
                self.bsd(&word)?;
            }
        }
        match self.all {
            (true, true) | (false, true) => self.request.wanted.push(Wanted::All),
            (true, false) => self.request.wanted.push(Wanted::WithTerminal),
            (false, false) => {}
        }
        if self.format.bsd.is_none() && !self.unix && self.only_bsd {
            self.format.bsd = Some(Bsd::Plain);
        }
        let list = match (&self.lists[..], self.around) {
            ("", _) => self.format.columns().to_owned(),
            (lists, None) => lists.to_owned(),
            (lists, Some(rest)) => format!("pid,{lists},{rest}"),
        };
        self.request.columns = chosen(&list)?;
        if self.name_only {
            for one in self.request.columns.iter_mut().filter(|one| one.column.keywords.contains(&"args")) {
                one.column = columns::named("comm").unwrap_or(one.column);
            }
        }
        Ok(self.request)
    }

    /// The rest of the word, or the next one.
    fn value(&mut self, option: &str, rest: &str) -> Result<String, Refusal> {
        if !rest.is_empty() {
            return Ok(rest.strip_prefix('=').unwrap_or(rest).to_owned());
        }
        self.words.pop_front().ok_or_else(|| refusal(option, "it needs a list"))
    }

    fn want(&mut self, wanted: Wanted) {
        self.request.wanted.push(wanted);
    }

    fn unix(&mut self, word: &str, letters: &str) -> Result<(), Refusal> {
        for (index, letter) in letters.char_indices() {
            let rest = letters.get(index + letter.len_utf8()..).unwrap_or_default();
            match letter {
                'e' | 'A' => self.want(Wanted::All),
                'a' => self.want(Wanted::WithTerminal),
                'd' => self.want(Wanted::NotLeader),
                'N' => self.request.all_but = true,
                'f' => self.format.full = true,
                'F' => self.format.extra_full = true,
                'l' => self.format.long = true,
                'j' => self.format.jobs = true,
                'y' => self.format.short = true,
                'c' => self.name_only = true,
                // Lines are as long as they are.
                'w' => {}
                'L' | 'T' | 'm' => return Err(refusal(&format!("-{letter}"), THREADS)),
                'H' => return Err(refusal("-H", TREES)),
                'o' | 'O' | 'p' | 'q' | 'u' | 'U' | 'g' | 'G' | 's' | 't' | 'C' | 'k' => {
                    let value = self.value(word, rest)?;
                    return self.unix_list(letter, &value);
                }
                _ => return Err(refusal(word, UNKNOWN)),
            }
        }
        if letters.is_empty() { Err(refusal(word, UNKNOWN)) } else { Ok(()) }
    }

    fn unix_list(&mut self, letter: char, value: &str) -> Result<(), Refusal> {
        match letter {
            'o' => self.list(value),
            'O' => self.list_within(value, "state,tname,time,args"),
            'p' | 'q' => self.want(Wanted::Pids(numbers("-p", value)?)),
            'u' => self.want(Wanted::Users(1, self.users(value)?)),
            'U' => self.want(Wanted::Users(0, self.users(value)?)),
            'G' => self.want(Wanted::Groups(0, self.groups(value)?)),
            'g' => match numbers("-g", value) {
                Ok(sessions) => self.want(Wanted::Sessions(sessions)),
                Err(_) => self.want(Wanted::Groups(1, self.groups(value)?)),
            },
            's' => self.want(Wanted::Sessions(numbers("-s", value)?)),
            't' => self.want(Wanted::Terminals(words(value))),
            'C' => self.want(Wanted::Names(words(value))),
            _ => return self.sorted(value),
        }
        Ok(())
    }

    fn bsd(&mut self, word: &str) -> Result<(), Refusal> {
        if word.starts_with(|first: char| first.is_ascii_digit()) {
            self.want(Wanted::Pids(numbers(word, word)?));
            return Ok(());
        }
        if !self.unix {
            self.format.bsd.get_or_insert(Bsd::Plain);
        }
        for (index, letter) in word.char_indices() {
            let rest = word.get(index + letter.len_utf8()..).unwrap_or_default();
            match letter {
                'A' => self.want(Wanted::All),
                'a' => self.all.0 = true,
                'x' => self.all.1 = true,
                'u' => self.format.bsd = Some(Bsd::User),
                'j' => self.format.bsd = Some(Bsd::Jobs),
                'l' => self.format.bsd = Some(Bsd::Long),
                'v' => self.format.bsd = Some(Bsd::Memory),
                's' => self.format.bsd = Some(Bsd::Signals),
                'c' => self.name_only = true,
                'h' => self.request.header = false,
                'n' => self.request.numeric = true,
                'r' => self.request.only_running = true,
                // Environments stay in the guest; session leaders are listed anyway; so is all of a line.
                'e' | 'g' | 'w' => {}
                'f' => return Err(refusal("f", TREES)),
                'H' | 'm' => return Err(refusal(&letter.to_string(), THREADS)),
                'T' => self.want(Wanted::WithTerminal),
                'o' | 'O' | 'p' | 'q' | 'U' | 't' | 'k' => {
                    let value = self.value(word, rest)?;
                    return self.bsd_list(letter, &value);
                }
                _ => return Err(refusal(word, UNKNOWN)),
            }
        }
        if word.is_empty() { Err(refusal(word, UNKNOWN)) } else { Ok(()) }
    }

    fn bsd_list(&mut self, letter: char, value: &str) -> Result<(), Refusal> {
        match letter {
            'O' => self.list_within(value, "state,tname,time,args"),
            'U' => self.want(Wanted::Users(1, self.users(value)?)),
            'k' => return self.sorted(value),
            other => return self.unix_list(other, value),
        }
        Ok(())
    }

    fn long(&mut self, word: &str, long: &str) -> Result<(), Refusal> {
        let (name, given) = long.split_once('=').map_or((long, ""), |(name, value)| (name, value));
        match name {
            "no-headers" | "no-heading" | "no-headings" | "noheaders" | "noheader" | "noheadings"
            | "noheading" => {
                self.request.header = false;
                return Ok(());
            }
            "deselect" => {
                self.request.all_but = true;
                return Ok(());
            }
            "headers" | "heading" | "headings" => return Ok(()),
            "forest" => return Err(refusal(word, TREES)),
            _ => {}
        }
        let letter = match name {
            "format" => 'o',
            "pid" | "quick-pid" => 'p',
            "user" => 'u',
            "User" => 'U',
            "Group" => 'G',
            "sid" => 's',
            "tty" => 't',
            "sort" => 'k',
            "ppid" | "group" => {
                let value = self.value(word, given)?;
                let wanted = match name {
                    "ppid" => Wanted::Parents(numbers(word, &value)?),
                    _ => Wanted::Groups(1, self.groups(&value)?),
                };
                self.want(wanted);
                return Ok(());
            }
            _ => return Err(refusal(word, UNKNOWN)),
        };
        let value = self.value(word, given)?;
        self.unix_list(letter, &value)
    }

    fn list(&mut self, value: &str) {
        if !self.lists.is_empty() {
            self.lists.push(',');
        }
        self.lists += value;
    }

    fn list_within(&mut self, value: &str, rest: &'static str) {
        self.list(value);
        self.around = Some(rest);
    }

    fn sorted(&mut self, value: &str) -> Result<(), Refusal> {
        for key in words(value) {
            let down = key.starts_with('-');
            let keyword = match key.trim_start_matches(['-', '+']) {
                // Written out they do not sort.
                "time" | "cputime" | "bsdtime" => "times",
                "etime" | "start_time" | "stime" | "start" | "lstart" => "etimes",
                keyword => keyword,
            };
            let column =
                columns::named(keyword).ok_or_else(|| refusal(&key, "it is no column to sort by"))?;
            self.request.order.push((column, down));
        }
        Ok(())
    }

    fn users(&self, value: &str) -> Result<Vec<u32>, Refusal> {
        let number = |name: &String| {
            self.facts.users.number(name).ok_or_else(|| refusal(name, "the host has no user of this name"))
        };
        words(value).iter().map(number).collect()
    }

    fn groups(&self, value: &str) -> Result<Vec<u32>, Refusal> {
        let number = |name: &String| {
            self.facts.groups.number(name).ok_or_else(|| refusal(name, "the host has no group of this name"))
        };
        words(value).iter().map(number).collect()
    }
}

fn refusal(option: &str, why: &'static str) -> Refusal {
    Refusal { option: option.to_owned(), why }
}

/// A list as `ps` takes it: with commas or spaces.
fn words(list: &str) -> Vec<String> {
    list.split([',', ' ', '\t']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn numbers(option: &str, list: &str) -> Result<Vec<i64>, Refusal> {
    let number = |word: &String| word.parse().map_err(|_| refusal(option, "a list of numbers must follow"));
    words(list).iter().map(number).collect()
}

/// `pid,comm`, or with headers of one's own `pid=,comm=NAME`.
fn chosen(list: &str) -> Result<Vec<Chosen>, Refusal> {
    let mut all = Vec::new();
    for word in words(list) {
        let (keyword, header) = match word.split_once('=') {
            Some((keyword, header)) => (keyword, Some(header.to_owned())),
            None => (&word[..], None),
        };
        let column =
            columns::named(keyword).ok_or_else(|| refusal(keyword, "there is no such column for a guest"))?;
        all.push(Chosen { column, header: header.unwrap_or_else(|| column.header.to_owned()) });
    }
    if all.is_empty() { Err(refusal("-o", "it needs a list of columns")) } else { Ok(all) }
}
