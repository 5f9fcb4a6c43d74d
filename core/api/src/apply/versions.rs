//! Comparisons of two states of an object in each version in which a manager has written.

use super::Write;
use super::compare::{Comparison, compare_objects};
use crate::convert::convert;
use crate::kinds::GroupVersionKind;
use crate::object::Object;

/// Two states of an object, compared in each version once.
pub(super) struct Versions<'a> {
    write: &'a Write<'a>,
    old: Option<&'a Object>,
    new: &'a Object,
    done: Vec<(String, Option<Comparison>)>,
}

impl<'a> Versions<'a> {
    /// The comparison in the version of the new state is known.
    pub(super) fn new(
        write: &'a Write<'a>,
        old: Option<&'a Object>,
        new: &'a Object,
        own: Comparison,
    ) -> Self {
        Self { write, old, new, done: vec![(new.api_version().to_owned(), Some(own))] }
    }

    /// The comparison in a version; `None` when the version is not served.
    pub(super) fn comparison(&mut self, api_version: &str) -> Option<&Comparison> {
        let at = match self.done.iter().position(|(version, _)| version == api_version) {
            Some(at) => at,
            None => {
                let found = self.compare(api_version);
                self.done.push((api_version.to_owned(), found));
                self.done.len() - 1
            }
        };
        self.done.get(at).and_then(|(_, found)| found.as_ref())
    }

    fn compare(&self, api_version: &str) -> Option<Comparison> {
        let gvk = GroupVersionKind::from_api_version(api_version, self.new.kind());
        let schema = (self.write.schemas)(&gvk)?;
        let old = self.old.map(|old| converted(old, &gvk));
        let new = converted(self.new, &gvk);
        Some(compare_objects(Some(&schema), old.as_ref(), &new, self.write.scope()))
    }
}

/// An object in another version of its kind.
pub(super) fn converted(object: &Object, gvk: &GroupVersionKind) -> Object {
    let mut object = object.clone();
    convert(&mut object, gvk);
    object
}
