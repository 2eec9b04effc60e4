//! The application's checks, outside the node's task.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tidegate_proto::id::Ticket;
use tidegate_proto::io::{Admission, Command, Subject, TipChange, Verdict};
use tokio::sync::mpsc::UnboundedSender;

use crate::driver::Message;

/// Decides about items, headers and blocks.
///
/// It is called on threads of its own, as many as [`crate::Builder::workers`] says, so it may take
/// its time; a peer's permits come back when it has answered. Without the feature `threads` it is
/// called in the node's task, which waits for it.
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

/// Where validators run. No queue builds up: the core asks two questions for each worker at most,
/// and waits for the answers.
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
    use std::collections::VecDeque;
    use std::sync::{Arc, Condvar, Mutex, PoisonError};

    use super::{Answer, Subject, Validator, validate};

    #[derive(Debug)]
    pub(crate) struct Workers(Arc<Questions>);

    #[derive(Debug, Default)]
    struct Questions {
        asked: Mutex<Asked>,
        /// Wakes one thread for each question. Threads that take turns at a channel would wake each
        /// other too, once for each question.
        more: Condvar,
    }

    #[derive(Debug, Default)]
    struct Asked {
        waiting: VecDeque<(Subject, Answer)>,
        /// No more will come.
        over: bool,
    }

    impl Workers {
        pub(crate) fn start(count: u32, validator: Arc<dyn Validator>) -> std::io::Result<Self> {
            // Dropped if a thread cannot be had: then the others end.
            let workers = Self(Arc::default());
            for n in 0..count {
                let (questions, validator) = (workers.0.clone(), validator.clone());
                let name = format!("tidegate-check-{n}");
                let work = move || {
                    while let Some((subject, answer)) = questions.next() {
                        validate(&*validator, subject, answer);
                    }
                };
                crate::rt::thread(name, work)?;
            }
            Ok(workers)
        }

        pub(crate) fn ask(&self, subject: Subject, answer: Answer) {
            self.0.change(|asked| asked.waiting.push_back((subject, answer)));
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

        /// Waits for a question; `None` if all are answered and no more will come.
        fn next(&self) -> Option<(Subject, Answer)> {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                if let Some(question) = asked.waiting.pop_front() {
                    return Some(question);
                }
                if asked.over {
                    return None;
                }
                asked = self.more.wait(asked).unwrap_or_else(PoisonError::into_inner);
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
        pub(crate) fn start(_: u32, validator: Arc<dyn Validator>) -> std::io::Result<Self> {
            Ok(Self(validator))
        }

        pub(crate) fn ask(&self, subject: Subject, answer: Answer) {
            validate(&*self.0, subject, answer);
        }
    }
}
