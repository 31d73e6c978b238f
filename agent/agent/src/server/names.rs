//! How messages call processes and their streams.

use vmrun_proto::{ProcessRef, Stream, StreamKind};

/// How messages call a process.
pub(super) fn describe(process: &ProcessRef) -> String {
    match &process.exec {
        Some(exec) => format!("process {exec:?} of container {:?}", process.container),
        None => format!("container {:?}", process.container),
    }
}

/// How messages call a stream.
pub(super) fn describe_stream(stream: &Stream) -> String {
    format!("the {} of {}", stream_name(stream.kind), describe(&stream.process))
}

/// How messages call a kind of stream.
pub(super) fn stream_name(kind: StreamKind) -> &'static str {
    match kind {
        StreamKind::Stdin => "standard input",
        StreamKind::Stdout => "standard output",
        StreamKind::Stderr => "standard error",
        StreamKind::Terminal => "terminal",
    }
}
