//! Who is asked in which of the two passes of mutating admission.

use std::hash::{DefaultHasher, Hash, Hasher};

use keelson_api::Object;

use crate::admission::Reinvocation;

/// What was asked in this pass and the one before, and what a later change means for it.
pub(super) struct Rounds<'a> {
    /// Who is asked: the marks of others are not theirs.
    what: &'static str,
    reinvocation: Option<&'a Reinvocation>,
    /// Who of this pass wants to be asked again after a change.
    open: Vec<String>,
    /// Other plugins have changed the object since these last saw it.
    is_new: bool,
}

impl<'a> Rounds<'a> {
    /// Begins a pass.
    pub(super) fn begin(what: &'static str, reinvocation: Option<&'a Reinvocation>, object: &Object) -> Self {
        let is_new = reinvocation
            .is_some_and(|it| it.is_second() && !it.is_marked(&format!("{what}/left/{}", hash(object))));
        Rounds { what, reinvocation, open: Vec::new(), is_new }
    }

    /// 0 or 1.
    pub(super) fn number(&self) -> u8 {
        u8::from(self.reinvocation.is_some_and(Reinvocation::is_second))
    }

    /// Whether one of them has its turn: in the second pass only one that was asked before a change.
    pub(super) fn has_turn(&self, id: &str) -> bool {
        let Some(second) = self.reinvocation.filter(|it| it.is_second()) else { return true };
        second.is_marked(&format!("{}/again/{id}", self.what))
            || self.is_new && second.is_marked(&format!("{}/asked/{id}", self.what))
    }

    /// One of them was asked, which wants to be asked again after a change.
    pub(super) fn asked(&mut self, id: &str) {
        self.open.push(id.to_owned());
    }

    /// The object was changed.
    pub(super) fn changed(&mut self) {
        let Some(reinvocation) = self.reinvocation else { return };
        for id in self.open.drain(..) {
            reinvocation.mark(format!("{}/again/{id}", self.what));
        }
        reinvocation.ask();
    }

    /// Ends the pass.
    pub(super) fn end(self, object: &Object) {
        let Some(reinvocation) = self.reinvocation.filter(|it| !it.is_second()) else { return };
        for id in self.open {
            reinvocation.mark(format!("{}/asked/{id}", self.what));
        }
        reinvocation.mark(format!("{}/left/{}", self.what, hash(object)));
    }
}

fn hash(object: &Object) -> u64 {
    let mut hasher = DefaultHasher::new();
    object.clone().into_value().to_string().hash(&mut hasher);
    hasher.finish()
}
