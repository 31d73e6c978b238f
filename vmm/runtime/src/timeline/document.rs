//! The document: our own data, and beside it what viewers of Chrome's trace format open.

use serde_json::{Value, json};
use vmrun_spec::{Lane, Mark, Phase, Timeline};

use super::marks::Point;

const LANES: [(Lane, &str); 3] =
    [(Lane::Launcher, "launcher"), (Lane::Monitor, "monitor"), (Lane::Guest, "guest")];

/// One JSON object: `timeline` is a [`Timeline`], and the rest is Chrome's trace format.
pub(super) fn document(id: &str, lines: &str) -> String {
    let timeline = timeline(id, lines);
    let document = json!({
        "displayTimeUnit": "ms",
        "traceEvents": events(&timeline),
        "timeline": timeline,
    });
    format!("{document:#}\n")
}

fn timeline(id: &str, lines: &str) -> Timeline {
    let mut marks: Vec<Mark> = lines.lines().filter_map(mark).collect();
    marks.sort_by_key(|mark| mark.at_ns);
    let first = marks.first().map_or(0, |mark| mark.at_ns);
    let phases = marks.windows(2).filter_map(|pair| phase(first, pair)).collect();
    Timeline { schema: Timeline::SCHEMA, id: id.to_owned(), marks, phases }
}

/// `NANOSECONDS NAME`, as the processes have written it.
fn mark(line: &str) -> Option<Mark> {
    let (at, name) = line.split_once(' ')?;
    let (name, lane, _) = Point::named(name)?;
    Some(Mark { name: name.to_owned(), lane, at_ns: at.parse().ok()? })
}

/// What was done between two marks has the name of what the second one ends.
fn phase(first: u64, pair: &[Mark]) -> Option<Phase> {
    let [from, to] = pair else { return None };
    let (_, lane, name) = Point::named(&to.name)?;
    let begin_ns = from.at_ns - first;
    Some(Phase { name: name.to_owned(), lane, begin_ns, duration_ns: to.at_ns - from.at_ns })
}

/// Complete events (`ph: X`) in microseconds, a thread for each lane.
fn events(timeline: &Timeline) -> Vec<Value> {
    let number = |lane| LANES.iter().position(|(known, _)| *known == lane).map_or(0, |at| at + 1);
    let names = LANES.iter().map(|(lane, name)| {
        json!({"name": "thread_name", "ph": "M", "pid": 1, "tid": number(*lane), "args": {"name": name}})
    });
    let process = json!({"name": "process_name", "ph": "M", "pid": 1, "args": {"name": format!("vmrun {}", timeline.id)}});
    let phases = timeline.phases.iter().map(|phase| {
        let (ts, dur) = (microseconds(phase.begin_ns), microseconds(phase.duration_ns));
        json!({"name": phase.name, "ph": "X", "pid": 1, "tid": number(phase.lane), "ts": ts, "dur": dur})
    });
    std::iter::once(process).chain(names).chain(phases).collect()
}

#[allow(clippy::cast_precision_loss, reason = "a start takes no months")]
fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str =
        "1000 begun\n9000 agent-begun\n4000 guest-entered\nnonsense\n7 unknown\n9500 removed\n";

    #[test]
    fn phases_sum_up_to_the_whole_whoever_wrote_first() {
        let timeline = timeline("x", LINES);
        let marks: Vec<_> = timeline.marks.iter().map(|mark| (mark.name.as_str(), mark.at_ns)).collect();
        assert_eq!(
            marks,
            [("begun", 1000), ("guest-entered", 4000), ("agent-begun", 9000), ("removed", 9500)]
        );
        let phases: Vec<_> =
            timeline.phases.iter().map(|phase| (phase.name.as_str(), phase.duration_ns)).collect();
        assert_eq!(phases, [("vCPUs' start", 3000), ("guest kernel", 5000), ("teardown", 500)]);
        assert_eq!(timeline.phases[1].begin_ns, 3000);
        assert_eq!(phases.iter().map(|(_, duration)| duration).sum::<u64>(), 8500);
    }

    #[test]
    fn document_is_what_viewers_open_and_reads_back() {
        let document: Value = serde_json::from_str(&document("x", LINES)).unwrap();
        let read: Timeline = serde_json::from_value(document["timeline"].clone()).unwrap();
        assert_eq!(read, timeline("x", LINES));
        let events = document["traceEvents"].as_array().unwrap();
        let kernel = events.iter().find(|event| event["name"] == "guest kernel").unwrap();
        assert_eq!((&kernel["ph"], &kernel["ts"], &kernel["dur"]), (&json!("X"), &json!(3.0), &json!(5.0)));
        let lane = events.iter().find(|event| event["args"]["name"] == "guest").unwrap();
        assert_eq!(lane["tid"], kernel["tid"]);
    }

    #[test]
    fn nothing_is_a_document_too() {
        let document: Value = serde_json::from_str(&document("x", "")).unwrap();
        assert_eq!(document["timeline"]["marks"], json!([]));
    }
}
