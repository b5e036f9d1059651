//! One write on its way through the log: from the task that wants it to the log's thread, which decides it, and back
//! with the answer once it is as durable as promised. If the task goes away before the write is decided, the write never
//! happens, unless it was promised; after that, it happens without anybody to hear of it.

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::transaction::Transaction;
use crate::{Begun, Bucket, Error};

/// A write that waits for the log.
pub(super) struct Job {
    bucket: Bucket,
    operation: Box<dyn Operation>,
    /// What it takes of the queue's bytes, until it is answered.
    _room: OwnedSemaphorePermit,
}

/// What differs from job to job: what is decided, and the type of the answer.
trait Operation: Send {
    fn decide(&mut self, transaction: &mut Transaction<'_>);
    fn answer(self: Box<Self>, outcome: Result<(), Error>);
}

struct Waiting<T, D> {
    /// Taken when it is decided.
    decide: Option<D>,
    /// It happens whether or not anybody waits.
    promised: bool,
    decided: Option<Result<T, Error>>,
    reply: oneshot::Sender<Result<T, Error>>,
}

impl Job {
    /// A job for the log, and where its answer comes. If it is `promised`, it is done even if nobody waits for that.
    pub(super) fn new<T, D>(bucket: Bucket, room: OwnedSemaphorePermit, promised: bool, decide: D) -> (Self, Begun<T>)
    where
        T: Send + 'static,
        D: FnOnce(&mut Transaction<'_>) -> Result<T, Error> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let operation = Box::new(Waiting { decide: Some(decide), promised, decided: None, reply });
        (Self { bucket, operation, _room: room }, Begun::new(answer))
    }

    /// The bucket it is about.
    pub(super) fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// Decides what is written. Only once.
    pub(super) fn decide(&mut self, transaction: &mut Transaction<'_>) {
        self.operation.decide(transaction);
    }

    /// Tells what was decided; or, if what it was decided upon could not be written, why.
    pub(super) fn answer(self, outcome: Result<(), Error>) {
        self.operation.answer(outcome);
    }
}

impl<T, D> Operation for Waiting<T, D>
where
    T: Send,
    D: FnOnce(&mut Transaction<'_>) -> Result<T, Error> + Send,
{
    fn decide(&mut self, transaction: &mut Transaction<'_>) {
        if let Some(decide) = self.decide.take()
            && (self.promised || !self.reply.is_closed())
        {
            self.decided = Some(decide(transaction));
        }
    }

    fn answer(self: Box<Self>, outcome: Result<(), Error>) {
        let answer = match (outcome, self.decided) {
            (Ok(()), Some(decided)) => decided,
            (Err(error), _) => Err(error),
            // It was given up on before it was decided.
            (Ok(()), None) => return,
        };
        // Whoever waited may be gone; the write stands.
        let _ = self.reply.send(answer);
    }
}
