//! The columns that can be asked for, with procps's keywords, headers and widths.

use super::row::Row;
use super::times;

/// On which side of its column a cell is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

use Side::{Left, Right};

/// One column.
#[derive(Debug)]
pub(super) struct Column {
    /// Its names in a list of columns.
    pub(super) keywords: &'static [&'static str],
    pub(super) header: &'static str,
    pub(super) width: usize,
    pub(super) side: Side,
    pub(super) value: fn(&Row<'_>) -> String,
}

/// As wide as the largest pid of a 64-bit kernel.
const PID: usize = 7;

const fn column(
    keywords: &'static [&'static str],
    header: &'static str,
    width: usize,
    side: Side,
    value: fn(&Row<'_>) -> String,
) -> Column {
    Column { keywords, header, width, side, value }
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// `12.3`, and from a hundred on `123`.
fn percent(permille: u64) -> String {
    if permille > 999 { (permille / 10).to_string() } else { format!("{}.{}", permille / 10, permille % 10) }
}

fn unknown(_: &Row<'_>) -> String {
    "-".to_owned()
}

/// The first column with a keyword is the one that is meant.
pub(super) const COLUMNS: &[Column] = &[
    column(&["pid", "tgid"], "PID", PID, Right, |row| row.info.pid.to_string()),
    column(&["lwp", "tid", "spid"], "LWP", PID, Right, |row| row.info.pid.to_string()),
    column(&["ppid"], "PPID", PID, Right, |row| row.info.parent.to_string()),
    column(&["pgid", "pgrp"], "PGID", PID, Right, |row| row.shown(5)),
    column(&["sid", "sess", "session"], "SID", PID, Right, |row| row.shown(6)),
    column(&["tpgid"], "TPGID", PID, Right, |row| row.shown(8)),
    column(&["user", "euser", "uname"], "USER", 8, Left, |row| row.user(1)),
    column(&["ruser"], "RUSER", 8, Left, |row| row.user(0)),
    column(&["suser", "svuser"], "SUSER", 8, Left, |row| row.user(2)),
    column(&["fuser"], "FUSER", 8, Left, |row| row.user(3)),
    column(&["uid", "euid"], "UID", 5, Right, |row| row.uid().to_string()),
    column(&["ruid"], "RUID", 5, Right, |row| or_dash(row.id("Uid", 0))),
    column(&["suid", "svuid"], "SUID", 5, Right, |row| or_dash(row.id("Uid", 2))),
    column(&["fsuid", "fuid"], "FUID", 5, Right, |row| or_dash(row.id("Uid", 3))),
    column(&["group", "egroup"], "GROUP", 8, Left, |row| row.group(1)),
    column(&["rgroup"], "RGROUP", 8, Left, |row| row.group(0)),
    column(&["sgroup", "svgroup"], "SGROUP", 8, Left, |row| row.group(2)),
    column(&["fgroup"], "FGROUP", 8, Left, |row| row.group(3)),
    column(&["gid", "egid"], "GID", 5, Right, |row| or_dash(row.id("Gid", 1))),
    column(&["rgid"], "RGID", 5, Right, |row| or_dash(row.id("Gid", 0))),
    column(&["sgid", "svgid"], "SGID", 5, Right, |row| or_dash(row.id("Gid", 2))),
    column(&["fsgid", "fgid"], "FGID", 5, Right, |row| or_dash(row.id("Gid", 3))),
    column(&["supgid"], "SUPGID", 20, Left, |row| row.status("Groups").replace(' ', ",")),
    column(&["args", "cmd", "command"], "COMMAND", 27, Left, |row| row.command()),
    column(&["comm", "ucmd", "ucomm"], "COMMAND", 15, Left, |row| row.name()),
    column(&["tty", "tt"], "TT", 8, Left, |row| row.info.terminal.clone()),
    column(&["tname"], "TTY", 8, Left, |row| row.info.terminal.clone()),
    column(&["state", "s"], "S", 1, Left, |row| row.state().to_string()),
    column(&["stat"], "STAT", 4, Left, |row| row.stat()),
    column(&["time", "cputime"], "TIME", 8, Right, |row| times::clock(row.info.cpu_ms)),
    column(&["times", "cputimes"], "TIME", 8, Right, |row| (row.info.cpu_ms / 1000).to_string()),
    column(&["bsdtime"], "TIME", 6, Right, |row| times::minutes(row.info.cpu_ms)),
    column(&["etime"], "ELAPSED", 11, Right, |row| times::elapsed(row.info.elapsed_ms)),
    column(&["etimes"], "ELAPSED", 7, Right, |row| (row.info.elapsed_ms / 1000).to_string()),
    column(&["stime", "start_time"], "STIME", 5, Right, |row| times::day(row.began(), row.now())),
    column(&["bsdstart"], "START", 6, Right, |row| times::recent(row.began(), row.now(), "%H:%M", "%b %d")),
    column(&["start"], "STARTED", 8, Right, |row| times::recent(row.began(), row.now(), "%H:%M:%S", "%b %d")),
    column(&["lstart"], "STARTED", 24, Right, |row| times::whole(row.began())),
    column(&["pcpu", "%cpu"], "%CPU", 4, Right, |row| percent(row.cpu_permille())),
    column(&["c", "util"], "C", 2, Right, |row| (row.cpu_permille() / 10).min(99).to_string()),
    column(&["pmem", "%mem"], "%MEM", 4, Right, |row| percent(row.info.memory_permille.into())),
    column(&["vsz", "vsize"], "VSZ", 6, Right, |row| or_dash(row.vsz_kib())),
    column(&["rss", "rssize", "rsz"], "RSS", 5, Right, |row| or_dash(row.rss_kib())),
    column(&["sz"], "SZ", 5, Right, |row| or_dash(row.pages())),
    column(&["ni", "nice"], "NI", 3, Right, |row| row.shown(19)),
    column(&["pri"], "PRI", 3, Right, |row| or_dash(row.field(18).map(|raw| 39 - raw))),
    column(&["opri", "intpri"], "PRI", 3, Right, |row| or_dash(row.field(18).map(|raw| 60 + raw))),
    column(&["priority"], "PRI", 3, Right, |row| row.shown(18)),
    column(&["rtprio"], "RTPRIO", 6, Right, |row| or_dash(row.field(40).filter(|priority| *priority > 0))),
    column(&["cls", "class", "policy"], "CLS", 3, Right, |row| class(row.field(41)).to_owned()),
    column(&["nlwp", "thcount"], "NLWP", 4, Right, |row| row.shown(20)),
    column(&["psr", "cpuid"], "PSR", 3, Right, |row| row.shown(39)),
    column(&["f", "flag", "flags"], "F", 1, Right, |row| or_dash(row.field(9).map(|flags| flags >> 6 & 7))),
    column(&["min_flt", "minflt"], "MINFLT", 6, Right, |row| row.shown(10)),
    column(&["maj_flt", "majflt"], "MAJFLT", 6, Right, |row| row.shown(12)),
    column(&["wchan", "nwchan"], "WCHAN", 6, Left, unknown),
    column(&["addr"], "ADDR", 4, Left, unknown),
    column(&["label", "context"], "LABEL", 31, Left, unknown),
    column(&["pending", "sig"], "PENDING", 16, Right, |row| row.status("SigPnd").to_owned()),
    column(&["blocked", "sigmask", "sig_block"], "BLOCKED", 16, Right, |row| row.status("SigBlk").to_owned()),
    column(&["ignored", "sigignore", "sig_ignore"], "IGNORED", 16, Right, |row| {
        row.status("SigIgn").to_owned()
    }),
    column(&["caught", "sigcatch", "sig_catch"], "CAUGHT", 16, Right, |row| row.status("SigCgt").to_owned()),
];

/// The column of this name.
pub(super) fn named(keyword: &str) -> Option<&'static Column> {
    let keyword = keyword.to_ascii_lowercase();
    COLUMNS.iter().find(|column| column.keywords.contains(&keyword.as_str()))
}

/// A scheduling class, from its number.
fn class(policy: Option<i64>) -> &'static str {
    match policy {
        Some(0) => "TS",
        Some(1) => "FF",
        Some(2) => "RR",
        Some(3) => "B",
        Some(5) => "IDL",
        Some(6) => "DLN",
        Some(_) => "?",
        None => "-",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keyword_is_one_columns_and_is_found_whatever_its_case() {
        let mut seen = BTreeSet::new();
        for keyword in COLUMNS.iter().flat_map(|column| column.keywords) {
            assert!(seen.insert(keyword), "{keyword} twice");
            assert!(named(&keyword.to_ascii_uppercase()).is_some());
        }
        assert!(named("nonsense").is_none());
    }

    #[test]
    fn percentages_have_a_place_behind_the_point_below_a_hundred() {
        assert_eq!([0, 5, 123, 999, 1000, 2345].map(percent), ["0.0", "0.5", "12.3", "99.9", "100", "234"]);
    }
}
