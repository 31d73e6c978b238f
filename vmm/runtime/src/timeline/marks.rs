//! The points of a start.

use vmrun_proto::GuestMark;
use vmrun_spec::Lane;

/// A point that a start comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    Begun,
    Typed,
    Planned,
    MonitorBegun,
    TreeBuilt,
    ImagesFound,
    MachineBuilt,
    GuestEntered,
    AgentBegun,
    AgentReady,
    AgentHeard,
    NetworkRead,
    NetworkPlugged,
    ContainerOrdered,
    ContainerMade,
    ViewBuilt,
    ContainerCreated,
    ProgramRuns,
    ProgramStarted,
    ProgramEnded,
    EndHeard,
    OutputDrained,
    MonitorEnds,
    MonitorReaped,
    Removed,
}

/// Point, name of the mark, who comes to it, and the name of the phase that ends with it.
const TABLE: &[(Point, &str, Lane, &str)] = &[
    (Point::Begun, "begun", Lane::Launcher, "begin"),
    (Point::Typed, "arguments-parsed", Lane::Launcher, "arguments"),
    (Point::Planned, "planned", Lane::Launcher, "plan, store, cgroup"),
    (Point::MonitorBegun, "monitor-begun", Lane::Launcher, "monitor's start"),
    (Point::TreeBuilt, "tree-built", Lane::Monitor, "shared tree"),
    (Point::ImagesFound, "images-found", Lane::Monitor, "kernel and boot image"),
    (Point::MachineBuilt, "machine-built", Lane::Monitor, "machine, memory, devices"),
    (Point::GuestEntered, "guest-entered", Lane::Monitor, "vCPUs' start"),
    (Point::AgentBegun, "agent-begun", Lane::Guest, "guest kernel"),
    (Point::AgentReady, "agent-ready", Lane::Guest, "agent's boot"),
    (Point::AgentHeard, "agent-heard", Lane::Monitor, "agent's greeting"),
    (Point::NetworkRead, "network-read", Lane::Monitor, "network: reading"),
    (Point::NetworkPlugged, "network-plugged", Lane::Monitor, "network: devices"),
    (Point::ContainerOrdered, "container-ordered", Lane::Monitor, "order for the container"),
    (Point::ContainerMade, "container-made", Lane::Guest, "container"),
    (Point::ViewBuilt, "view-built", Lane::Monitor, "streams, view of files"),
    (Point::ContainerCreated, "container-created", Lane::Monitor, "container's record"),
    (Point::ProgramRuns, "program-runs", Lane::Guest, "program's exec"),
    (Point::ProgramStarted, "program-started", Lane::Monitor, "start's answer"),
    (Point::ProgramEnded, "program-ended", Lane::Guest, "program"),
    (Point::EndHeard, "end-heard", Lane::Monitor, "end's report"),
    (Point::OutputDrained, "output-drained", Lane::Monitor, "files and output"),
    (Point::MonitorEnds, "monitor-ends", Lane::Monitor, "guest's end"),
    (Point::MonitorReaped, "monitor-reaped", Lane::Launcher, "monitor's end"),
    (Point::Removed, "removed", Lane::Launcher, "teardown"),
];

impl Point {
    /// The name of its mark.
    pub(crate) fn name(self) -> &'static str {
        TABLE.iter().find(|(point, ..)| *point == self).map_or("", |(_, name, ..)| name)
    }

    /// Who comes to the mark of this name, and the phase that ends there.
    pub(super) fn named(name: &str) -> Option<(&'static str, Lane, &'static str)> {
        TABLE
            .iter()
            .find(|(_, known, ..)| *known == name)
            .map(|(_, name, lane, phase)| (*name, *lane, *phase))
    }

    /// What a stamp of the machine's says: nothing known, where the guest lies.
    pub(super) fn of_guest(code: Option<u8>) -> Option<Self> {
        let Some(code) = code else { return Some(Self::GuestEntered) };
        Some(match GuestMark::of(code)? {
            GuestMark::AgentBegins => Self::AgentBegun,
            GuestMark::AgentReady => Self::AgentReady,
            GuestMark::ContainerOrdered => Self::ContainerOrdered,
            GuestMark::ContainerMade => Self::ContainerMade,
            GuestMark::ProgramRuns => Self::ProgramRuns,
            GuestMark::ProgramEnded => Self::ProgramEnded,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_point_is_in_the_table_once() {
        let names: BTreeSet<_> = TABLE.iter().map(|(_, name, ..)| name).collect();
        let phases: BTreeSet<_> = TABLE.iter().map(|(.., phase)| phase).collect();
        assert_eq!((names.len(), phases.len()), (TABLE.len(), TABLE.len()));
        // They stand in the order of their definition.
        for (at, (point, name, ..)) in TABLE.iter().enumerate() {
            assert_eq!(*point as usize, at);
            assert_eq!(point.name(), *name);
        }
        assert_eq!(Point::Removed as usize + 1, TABLE.len());
        assert!((0..=u8::MAX).filter_map(|code| Point::of_guest(Some(code))).count() == GuestMark::ALL.len());
    }
}
