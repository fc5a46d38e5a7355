//! Endpoint names: looked up by a helper thread, so that no packet and no timer waits for a name server.
//!
//! The thread lives as long as there are names; it sleeps on its channel and wakes the control thread by an event.

use std::net::IpAddr;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;
use std::thread;

use meshd_os::events::Event;
use meshd_os::resolve::Resolver;

/// The outcome of a look-up.
pub struct Answer {
    /// What was asked.
    pub name: String,
    /// Its addresses, or why there are none.
    pub found: Result<Vec<IpAddr>, String>,
}

/// The helper thread's other end.
pub struct Names {
    questions: Option<Sender<(String, u32)>>,
    answers: Receiver<Answer>,
    answer_sender: Sender<Answer>,
    event: Arc<Event>,
}

impl Names {
    /// No thread yet; it is started with the first question.
    pub fn new() -> meshd_os::Result<Self> {
        let (answer_sender, answers) = channel();
        Ok(Self {
            questions: None,
            answers,
            answer_sender,
            event: Arc::new(Event::new()?),
        })
    }

    /// Raised when an answer waits.
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// Asks for the addresses of `name`; the question carries `mark`.
    pub fn ask(&mut self, name: &str, mark: u32) {
        let questions = self.questions.get_or_insert_with(|| {
            let (sender, questions) = channel();
            let (answers, event) = (self.answer_sender.clone(), Arc::clone(&self.event));
            thread::spawn(move || look_up(&questions, &answers, &event));
            sender
        });
        // The thread ends only when this sender is dropped.
        let _ = questions.send((name.to_owned(), mark));
    }

    /// The next answer, if one waits.
    pub fn answer(&mut self) -> Option<Answer> {
        self.event.lower();
        self.answers.try_recv().ok()
    }

    /// Lets the thread end.
    pub fn stop(&mut self) {
        self.questions = None;
    }
}

fn look_up(questions: &Receiver<(String, u32)>, answers: &Sender<Answer>, event: &Event) {
    while let Ok((name, mark)) = questions.recv() {
        let resolver = Resolver {
            mark,
            ..Resolver::default()
        };
        let found = resolver.resolve(&name).map_err(|error| error.to_string());
        if answers.send(Answer { name, found }).is_err() {
            return;
        }
        event.raise();
    }
}
