//! The application's validators, which run outside the node's task.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tidegate_proto::id::Ticket;
use tidegate_proto::io::{Admission, Command, Lane, Subject, TipChange, Verdict};
use tidegate_proto::{MaybeSend, MaybeSync};
use tokio::sync::mpsc::UnboundedSender;

use crate::driver::Message;

/// Decides about items, headers and blocks.
///
/// It is called on threads of its own, so it may take its time; a peer's permits come back when it
/// has answered. Each kind of question (items of one pool, or headers and blocks) has one thread, and all
/// share as many more as [`crate::Builder::workers`] says, less one. So nothing waits for the verdicts of
/// another pool. Without the feature `threads` it is called in the node's task, which waits for it.
///
/// **A verdict must be a function of the subject and of the tip, never of what else has arrived**:
/// nodes with the same tip must come to the same verdicts, or their pools will differ for ever.
///
/// *Reject* says that the subject proves misbehaviour whatever the state: who sent it is banned for
/// a while. Everything that depends on state is *ignore*.
///
/// A closure is a validator:
///
/// ```
/// use tidegate::{Answer, Validator, io::{Admission, Subject}};
///
/// fn accept_short_items(subject: Subject, answer: Answer) {
///     match subject {
///         Subject::Item { body, .. } if body.len() < 100 => answer.accept(Admission::default()),
///         _ => answer.ignore(),
///     }
/// }
/// # fn is_validator(_: impl Validator) {}
/// is_validator(accept_short_items);
/// ```
pub trait Validator: MaybeSend + MaybeSync + 'static {
    /// Looks at `subject` and gives the answer.
    ///
    /// Whoever keeps state should answer while holding its lock: then answers, and what
    /// [`crate::Node`] is told, reach the node in the order of the states that they speak of.
    fn validate(&self, subject: Subject, answer: Answer);
}

impl<F: Fn(Subject, Answer) + MaybeSend + MaybeSync + 'static> Validator for F {
    fn validate(&self, subject: Subject, answer: Answer) {
        self(subject, answer);
    }
}

/// Takes one verdict. If it is dropped without one, the verdict is *ignore*.
#[derive(Debug)]
pub struct Answer {
    ticket: Ticket,
    verdict: Option<Verdict>,
    tip: Option<TipChange>,
    driver: UnboundedSender<Message>,
}

/// A validator that accepts everything: for applications whose [rules](crate::rules::Rules) decide
/// all.
pub fn accept_all(_: Subject, answer: Answer) {
    answer.accept(Admission::default());
}

impl Answer {
    pub(crate) fn new(ticket: Ticket, driver: UnboundedSender<Message>) -> Self {
        Self { ticket, verdict: None, tip: None, driver }
    }

    /// Accepts. For headers the default admission will do.
    pub fn accept(mut self, admission: Admission) {
        self.verdict = Some(Verdict::Accept(admission));
    }

    /// Accepts a block, and sets the tip if there is a change.
    pub fn accept_block(mut self, tip: Option<TipChange>) {
        self.verdict = Some(Verdict::Accept(Admission::default()));
        self.tip = tip;
    }

    /// Rejects: it proves misbehaviour.
    pub fn reject(mut self) {
        self.verdict = Some(Verdict::Reject);
    }

    /// Ignores: it is of no use now.
    pub fn ignore(self) {}

    /// Gives a verdict that was made elsewhere.
    pub fn give(mut self, verdict: Verdict, tip: Option<TipChange>) {
        self.verdict = Some(verdict);
        self.tip = tip;
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let verdict = self.verdict.take().unwrap_or(Verdict::Ignore);
        let verdict = Command::Verdict { ticket: self.ticket, verdict };
        // Without a driver no one waits for the verdict.
        let _ = self.driver.send(Message::Command(verdict));
        if let Some(tip) = self.tip.take() {
            let _ = self.driver.send(Message::Command(Command::SetTip(tip)));
        }
    }
}

/// Where validators run. No queue builds up: the core has at most two questions open for each
/// worker, names the lane, and waits for the verdicts.
pub(crate) use workers::Workers;

fn validate(validator: &dyn Validator, subject: Subject, answer: Answer) {
    // A validator that panics has given no verdict; its thread goes on with the next question.
    if catch_unwind(AssertUnwindSafe(|| validator.validate(subject, answer))).is_err() {
        tracing::error!("the validator panicked: its answer counts as ignore");
    }
}

/// Threads: some for the shared lane, and one for each other lane.
#[cfg(feature = "threads")]
mod workers {
    use std::collections::BTreeMap;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{Arc, Mutex, PoisonError};

    use tidegate_proto::id::PoolIndex;

    use super::{Answer, Lane, Subject, Validator, validate};

    type Question = (Subject, Answer);

    #[derive(Debug)]
    pub(crate) struct Workers(BTreeMap<Lane, Sender<Question>>);

    impl Workers {
        /// With `workers` threads for each kind of question, of which all but one are shared.
        pub(crate) fn start(
            workers: u32,
            pools: usize,
            validator: &Arc<dyn Validator>,
        ) -> std::io::Result<Self> {
            let own =
                (0..pools).map(|pool| Lane::Pool(PoolIndex(pool as u16))).chain([Lane::Chain]);
            let own = own.map(|lane| (lane, 1));
            // If a thread cannot be started, dropping this ends the others.
            let mut lanes = Self(BTreeMap::new());
            let mut n = 0;
            for (lane, threads) in own.chain([(Lane::Shared, workers - 1)]) {
                let (sender, questions) = channel();
                let questions = Arc::new(Mutex::new(questions));
                for _ in 0..threads {
                    let (questions, validator) = (questions.clone(), validator.clone());
                    crate::rt::thread(format!("tidegate-check-{n}"), move || {
                        work(&questions, &*validator);
                    })?;
                    n += 1;
                }
                lanes.0.insert(lane, sender);
            }
            Ok(lanes)
        }

        pub(crate) fn ask(&self, subject: Subject, answer: Answer, lane: Lane) {
            // Threads end only when this is dropped, and the core only names lanes that exist.
            let sent = self.0.get(&lane).is_some_and(|lane| lane.send((subject, answer)).is_ok());
            debug_assert!(sent, "there is no worker for {lane:?}");
        }
    }

    /// Answers questions until the queue is closed.
    fn work(questions: &Mutex<Receiver<Question>>, validator: &dyn Validator) {
        // The thread that waits for a question holds the lock, and releases it with the question.
        let next = || questions.lock().unwrap_or_else(PoisonError::into_inner).recv();
        while let Ok((subject, answer)) = next() {
            validate(validator, subject, answer);
        }
    }

    #[cfg(test)]
    mod tests {
        use std::sync::Barrier;

        use bytes::Bytes;
        use tidegate_proto::id::{BlockId, Ticket};
        use tokio::sync::mpsc::unbounded_channel;

        use super::*;

        /// With three workers for each kind, and two pools.
        const LANES: [Lane; 5] = [
            Lane::Shared,
            Lane::Pool(PoolIndex(0)),
            Lane::Shared,
            Lane::Chain,
            Lane::Pool(PoolIndex(1)),
        ];

        #[test]
        fn lanes_are_worked_on_at_once() {
            // All lanes must get here before any can go on.
            let all = Arc::new(Barrier::new(LANES.len()));
            let met = all.clone();
            let validator = move |_: Subject, answer: Answer| {
                met.wait();
                answer.ignore();
            };
            let validator = Arc::new(validator) as Arc<dyn Validator>;
            let workers = Workers::start(3, 2, &validator).expect("threads");
            let mut waiting = Vec::new();
            for lane in LANES.into_iter().chain(LANES) {
                let (sender, answered) = unbounded_channel();
                let subject = Subject::Header { block: BlockId([1; 32]), header: Bytes::new() };
                workers.ask(subject, Answer::new(Ticket(0), sender), lane);
                waiting.push(answered);
            }
            for mut answered in waiting {
                assert!(answered.blocking_recv().is_some());
            }
        }
    }
}

/// Runs in the node's task, which waits for each verdict: there are no threads.
#[cfg(not(feature = "threads"))]
mod workers {
    use std::sync::Arc;

    use super::{Answer, Lane, Subject, Validator, validate};

    pub(crate) struct Workers(Arc<dyn Validator>);

    impl Workers {
        #[expect(clippy::unnecessary_wraps, reason = "threads may fail to start")]
        pub(crate) fn start(
            _: u32,
            _: usize,
            validator: &Arc<dyn Validator>,
        ) -> std::io::Result<Self> {
            Ok(Self(validator.clone()))
        }

        pub(crate) fn ask(&self, subject: Subject, answer: Answer, _: Lane) {
            validate(&*self.0, subject, answer);
        }
    }
}
