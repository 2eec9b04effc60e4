//! The application's checks, outside the node's task.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tidegate_proto::id::Ticket;
use tidegate_proto::io::{Admission, Command, Subject, TipChange, Verdict};
use tokio::sync::mpsc::UnboundedSender;

use crate::driver::Message;

/// Decides about items, headers and blocks.
///
/// It is called on threads of its own, so it may take its time; a peer's permits come back when it
/// has answered. As many questions are worked on at once as [`crate::Builder::workers`] says, and
/// beyond those one of each kind of which none is: items of each pool, and headers and blocks. So
/// nothing waits for the verdicts of another pool. Without the feature `threads` it is called in the
/// node's task, which waits for it.
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
pub trait Validator: Send + Sync + 'static {
    /// Looks at `subject` and gives the answer.
    ///
    /// Whoever keeps state should answer while holding its lock: then answers, and what
    /// [`crate::Node`] is told, reach the node in the order of the states that they speak of.
    fn validate(&self, subject: Subject, answer: Answer);
}

impl<F: Fn(Subject, Answer) + Send + Sync + 'static> Validator for F {
    fn validate(&self, subject: Subject, answer: Answer) {
        self(subject, answer);
    }
}

/// Takes one answer. Dropped without one it is *ignore*.
#[derive(Debug)]
pub struct Answer {
    ticket: Ticket,
    verdict: Option<Verdict>,
    tip: Option<TipChange>,
    driver: UnboundedSender<Message>,
}

/// A validator that finds everything good: for items whose [rules](crate::rules::Rules) say all
/// there is to say.
pub fn accept_all(_: Subject, answer: Answer) {
    answer.accept(Admission::default());
}

impl Answer {
    pub(crate) fn new(ticket: Ticket, driver: UnboundedSender<Message>) -> Self {
        Self { ticket, verdict: None, tip: None, driver }
    }

    /// It is good. For headers the default admission will do.
    pub fn accept(mut self, admission: Admission) {
        self.verdict = Some(Verdict::Accept(admission));
    }

    /// The block is good, and perhaps the tip moves with it.
    pub fn accept_block(mut self, tip: Option<TipChange>) {
        self.verdict = Some(Verdict::Accept(Admission::default()));
        self.tip = tip;
    }

    /// It proves misbehaviour.
    pub fn reject(mut self) {
        self.verdict = Some(Verdict::Reject);
    }

    /// It is of no use now.
    pub fn ignore(self) {}

    /// A verdict that has been made elsewhere.
    pub fn give(mut self, verdict: Verdict, tip: Option<TipChange>) {
        self.verdict = Some(verdict);
        self.tip = tip;
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let verdict = self.verdict.take().unwrap_or(Verdict::Ignore);
        let verdict = Command::Verdict { ticket: self.ticket, verdict };
        // Without a driver nobody waits for the answer.
        let _ = self.driver.send(Message::Command(verdict));
        if let Some(tip) = self.tip.take() {
            let _ = self.driver.send(Message::Command(Command::SetTip(tip)));
        }
    }
}

/// Where validators run. No queue builds up: the core asks two questions for each worker, and one
/// of each kind beyond those, and waits for the answers.
pub(crate) use workers::Workers;

fn validate(validator: &dyn Validator, subject: Subject, answer: Answer) {
    // A validator that panics has given no answer, and its caller has more to do.
    if catch_unwind(AssertUnwindSafe(|| validator.validate(subject, answer))).is_err() {
        tracing::error!("the validator panicked: its answer counts as ignore");
    }
}

/// On threads of their own.
#[cfg(feature = "threads")]
mod workers {
    use std::collections::{BTreeMap, VecDeque};
    use std::sync::{Arc, Condvar, Mutex, PoisonError};

    use tidegate_proto::id::PoolIndex;

    use super::{Answer, Subject, Validator, validate};

    #[derive(Debug)]
    pub(crate) struct Workers(Arc<Questions>);

    #[derive(Debug)]
    struct Questions {
        /// So many are worked on at once, of whatever kind.
        shared: usize,
        asked: Mutex<Asked>,
        /// Wakes one thread for each question. Threads that take turns at a channel would wake each
        /// other too, once for each question.
        more: Condvar,
    }

    #[derive(Debug, Default)]
    struct Asked {
        /// How many have been asked.
        count: u64,
        kinds: BTreeMap<Kind, OfKind>,
        /// No more will come.
        over: bool,
    }

    /// Items of a pool, or headers and blocks.
    type Kind = Option<PoolIndex>;

    /// Questions of a kind.
    #[derive(Debug, Default)]
    struct OfKind {
        /// With their numbers, which ascend.
        waiting: VecDeque<(u64, Subject, Answer)>,
        /// How many are worked on.
        busy: usize,
    }

    impl Asked {
        fn push(&mut self, subject: Subject, answer: Answer) {
            let of = self.kinds.entry(subject.pool()).or_default();
            of.waiting.push_back((self.count, subject, answer));
            self.count += 1;
        }

        /// The kind of the first question that has a thread: a shared one, or that of its kind.
        fn next(&self, shared: usize) -> Option<Kind> {
            let free = self.kinds.values().map(|of| of.busy).sum::<usize>() < shared;
            let has_thread = self.kinds.iter().filter(|(_, of)| free || of.busy == 0);
            let first = has_thread.filter_map(|(kind, of)| Some((of.waiting.front()?.0, *kind)));
            first.min().map(|(_, kind)| kind)
        }

        /// Takes that question.
        fn take(&mut self, shared: usize) -> Option<(Kind, Subject, Answer)> {
            let kind = self.next(shared)?;
            let of = self.kinds.get_mut(&kind)?;
            let (_, subject, answer) = of.waiting.pop_front()?;
            of.busy += 1;
            Some((kind, subject, answer))
        }
    }

    impl Workers {
        /// Works on `shared` questions at once, and beyond those on one of each kind.
        pub(crate) fn start(
            shared: u32,
            pools: usize,
            validator: Arc<dyn Validator>,
        ) -> std::io::Result<Self> {
            let questions = Questions {
                shared: shared as usize,
                asked: Mutex::default(),
                more: Condvar::new(),
            };
            // Dropped if a thread cannot be had: then the others end.
            let workers = Self(Arc::new(questions));
            // One of the kinds has one of the shared threads when all of those are busy.
            for n in 0..shared as usize + pools {
                let (questions, validator) = (workers.0.clone(), validator.clone());
                let name = format!("tidegate-check-{n}");
                let work = move || {
                    while let Some((kind, subject, answer)) = questions.next() {
                        validate(&*validator, subject, answer);
                        questions.done(kind);
                    }
                };
                crate::rt::thread(name, work)?;
            }
            Ok(workers)
        }

        pub(crate) fn ask(&self, subject: Subject, answer: Answer) {
            self.0.change(|asked| asked.push(subject, answer));
            self.0.more.notify_one();
        }
    }

    impl Drop for Workers {
        fn drop(&mut self) {
            self.0.change(|asked| asked.over = true);
            self.0.more.notify_all();
        }
    }

    impl Questions {
        fn change(&self, change: impl FnOnce(&mut Asked)) {
            change(&mut self.asked.lock().unwrap_or_else(PoisonError::into_inner));
        }

        /// Waits for a question; `None` if no more will come for this thread.
        fn next(&self) -> Option<(Kind, Subject, Answer)> {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                if let Some(question) = asked.take(self.shared) {
                    if asked.next(self.shared).is_some() {
                        // The end of one check can make room for two.
                        self.more.notify_one();
                    }
                    return Some(question);
                }
                // What waits for a thread gets one of those that are busy.
                if asked.over {
                    return None;
                }
                asked = self.more.wait(asked).unwrap_or_else(PoisonError::into_inner);
            }
        }

        fn done(&self, kind: Kind) {
            self.change(|asked| {
                if let Some(of) = asked.kinds.get_mut(&kind) {
                    of.busy -= 1;
                }
            });
        }
    }

    #[cfg(test)]
    mod tests {
        use std::sync::Barrier;

        use bytes::Bytes;
        use tidegate_proto::id::{BlockId, ItemId, Ticket};
        use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

        use super::*;
        use crate::driver::Message;

        fn of(kind: Kind) -> Subject {
            let body = Bytes::new();
            match kind {
                Some(pool) => Subject::Item { pool, id: ItemId([1; 32]), body },
                None => Subject::Header { block: BlockId([1; 32]), header: body },
            }
        }

        fn answer() -> (Answer, UnboundedReceiver<Message>) {
            let (sender, answers) = unbounded_channel();
            (Answer::new(Ticket(0), sender), answers)
        }

        const FIRST: Kind = Some(PoolIndex(0));
        const SECOND: Kind = Some(PoolIndex(1));

        #[test]
        fn a_kind_has_a_thread_when_others_have_all() {
            let mut asked = Asked::default();
            for kind in [FIRST, FIRST, SECOND, None] {
                asked.push(of(kind), answer().0);
            }
            assert_eq!(asked.next(2), Some(FIRST));
            asked.kinds.get_mut(&FIRST).unwrap().busy = 1;
            assert_eq!((asked.next(2), asked.next(1)), (Some(FIRST), Some(SECOND)));
            asked.kinds.get_mut(&SECOND).unwrap().busy = 1;
            assert_eq!(asked.next(2), Some(None));
            asked.kinds.get_mut(&None).unwrap().busy = 1;
            assert_eq!((asked.next(2), asked.next(3), asked.next(4)), (None, None, Some(FIRST)));
        }

        #[test]
        fn all_kinds_are_worked_on_at_once() {
            // Nobody gets past it alone.
            let all = Arc::new(Barrier::new(3));
            let met = all.clone();
            let validator = move |_: Subject, answer: Answer| {
                met.wait();
                answer.ignore();
            };
            let workers = Workers::start(1, 2, Arc::new(validator)).expect("threads");
            let mut waiting = Vec::new();
            for kind in [FIRST, FIRST, SECOND, None, SECOND, None] {
                let (answer, answered) = answer();
                workers.ask(of(kind), answer);
                waiting.push(answered);
            }
            for mut answered in waiting {
                assert!(answered.blocking_recv().is_some());
            }
        }
    }
}

/// In the task of the node, which waits for each: there are no threads.
#[cfg(not(feature = "threads"))]
mod workers {
    use std::sync::Arc;

    use super::{Answer, Subject, Validator, validate};

    pub(crate) struct Workers(Arc<dyn Validator>);

    impl Workers {
        #[expect(clippy::unnecessary_wraps, reason = "threads may fail to start")]
        pub(crate) fn start(
            _: u32,
            _: usize,
            validator: Arc<dyn Validator>,
        ) -> std::io::Result<Self> {
            Ok(Self(validator))
        }

        pub(crate) fn ask(&self, subject: Subject, answer: Answer) {
            validate(&*self.0, subject, answer);
        }
    }
}
