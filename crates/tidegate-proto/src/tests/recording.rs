//! Section 13: recordings. Reading a file back gives the same run, or an error.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use super::application::{SMALL, TestRules, config, item};
use crate::io::{Admission, Command, Input, Output};
use crate::recording::{Recorder, Replay, ReplayError, Start, replay};
use crate::{Node, Time};

#[derive(Clone, Default)]
struct File(Arc<Mutex<Vec<u8>>>);

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A node that publishes two items, and has an event of a connection that is gone.
fn record(rules: &str) -> Vec<u8> {
    let (at, seed) = (Time::ZERO, [4; 32]);
    let mut node = Node::new(config(1), Box::new(TestRules), seed, at).unwrap();
    let (build, rules) = ("test".to_owned(), rules.to_owned());
    let start = Start { config: config(1), seed, build, rules, at };
    let file = File::default();
    let mut recorder = Recorder::new(Box::new(file.clone()), &start).unwrap();
    let mut outputs = 0;
    for n in 1..=2u64 {
        let now = Time::from_micros(n);
        let (body, admission) = (item(n as u8, 100), Admission::default());
        let publish = Command::Publish { request: n, pool: SMALL, body, admission };
        let closed = Input::Closed { connection: crate::id::ConnectionId(n) };
        recorder.command(now, &publish).unwrap();
        node.handle_command(now, publish);
        recorder.input(now, &closed).unwrap();
        node.handle_input(now, closed);
        recorder.timeout(now).unwrap();
        node.handle_timeout(now);
        while let Some(output) = node.poll_output() {
            outputs += usize::from(matches!(output, Output::Published { .. }));
            recorder.output(&output);
        }
    }
    assert_eq!(outputs, 2);
    recorder.finish().unwrap();
    file.0.lock().unwrap().clone()
}

fn read(file: &[u8]) -> Result<Replay, ReplayError> {
    replay(file, Box::new(TestRules))
}

/// R13.5
#[test]
fn a_run_can_be_run_again() {
    let replay = read(&record("test 1")).unwrap();
    assert_eq!(replay.recorded, Some(replay.hash));
    assert_eq!((replay.steps, replay.end), (6, Time::from_micros(2)));
    // Outputs are part of the hash: the first item is different.
    let mut other = record("test 1");
    let at = other.windows(50).position(|bytes| bytes == [1; 50]).unwrap();
    other[at] = 7;
    let replay = read(&other).unwrap();
    assert_ne!(replay.recorded, Some(replay.hash));
}

/// R13.1, R13.2
#[test]
fn recordings_of_other_rules_are_refused() {
    let mut other = record("test 1");
    other[7] = b'1';
    assert!(matches!(read(&other), Err(ReplayError::NotARecording)));
    assert!(matches!(read(b"tide"), Err(ReplayError::NotARecording)));
    let other = read(&record("test 2"));
    let Err(ReplayError::OtherRules { recorded, own }) = other else { panic!("{other:?}") };
    assert_eq!((&*recorded, &*own), ("test 2", "test 1"));
}

/// Where each record begins, after the magic.
fn records(file: &[u8]) -> Vec<usize> {
    let mut starts = vec![8];
    while let Some(length) = file.get(starts[starts.len() - 1]..).and_then(<[u8]>::first_chunk) {
        starts.push(starts[starts.len() - 1] + 4 + u32::from_be_bytes(*length) as usize);
    }
    starts
}

/// R13.3, R13.4
#[test]
fn a_damaged_recording_is_refused_and_a_short_one_is_not() {
    let file = record("test 1");
    let starts = records(&file);
    assert_eq!(starts.len(), 1 + 6 + 1 + 1);
    let mut damaged = file.clone();
    damaged[starts[2] + 4] = 99;
    assert!(matches!(read(&damaged), Err(ReplayError::Damaged { step: 2 })));
    let mut long = file.clone();
    long[starts[2]..starts[2] + 4].copy_from_slice(&((64 << 20) + 1u32).to_be_bytes());
    assert!(matches!(read(&long), Err(ReplayError::Damaged { step: 2 })));
    for (cut, steps) in [(starts[7], 6), (starts[3], 2), (starts[3] + 5, 2), (starts[2] + 2, 1)] {
        let replay = read(&file[..cut]).unwrap();
        assert_eq!((replay.recorded, replay.steps), (None, steps));
    }
}
