//! The changes of one transaction.

use crate::attribute::Writer;
use crate::chain::{Chain, Rule, Table};
use crate::message::{self, Head};
use crate::set::{Element, Set};

/// An attribute holds at most 64 KiB, so many elements take several messages.
const ELEMENTS: usize = 32 << 10;

/// Changes in order, applied all together by [`crate::Connection::commit`] or not at all.
///
/// What a later change refers to may be made by an earlier one of the same batch.
#[derive(Debug)]
pub struct Batch {
    pub(crate) out: Writer,
    /// Where each message begins, and what it does, for the error.
    pub(crate) messages: Vec<(usize, String)>,
    sets: u32,
}

impl Default for Batch {
    fn default() -> Self {
        let mut batch = Self { out: Writer::default(), messages: Vec::new(), sets: 0 };
        batch.message("begin".to_owned(), Head::batch(message::BATCH_BEGIN), |_| {});
        batch
    }
}

impl Batch {
    /// Without changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.messages.len() == 1
    }

    /// Makes a table unless it is there.
    pub fn add_table(&mut self, table: &Table) {
        let head = Head::new(message::NEW_TABLE, message::FLAG_CREATE, table.family);
        self.message(format!("add table {}", table.name), head, |out| {
            out.put_text(1, &table.name);
            out.put_u32(2, 0);
        });
    }

    /// Deletes a table with all that is in it; there must be one.
    pub fn delete_table(&mut self, table: &Table) {
        let head = Head::new(message::DELETE_TABLE, 0, table.family);
        self.message(format!("delete table {}", table.name), head, |out| out.put_text(1, &table.name));
    }

    /// Deletes a table if there is one.
    pub fn clear_table(&mut self, table: &Table) {
        self.add_table(table);
        self.delete_table(table);
    }

    /// Makes a chain unless it is there.
    pub fn add_chain(&mut self, table: &Table, chain: &Chain) {
        let head = Head::new(message::NEW_CHAIN, message::FLAG_CREATE, table.family);
        self.message(format!("add chain {} {}", table.name, chain.name), head, |out| {
            out.put_text(1, &table.name);
            chain.encode(out);
        });
    }

    /// Deletes a chain that nothing refers to, with its rules.
    pub fn delete_chain(&mut self, table: &Table, chain: &str) {
        self.flush_chain(table, chain);
        let head = Head::new(message::DELETE_CHAIN, 0, table.family);
        self.message(format!("delete chain {} {chain}", table.name), head, |out| {
            out.put_text(1, &table.name);
            out.put_text(3, chain);
        });
    }

    /// Deletes the rules of a chain.
    pub fn flush_chain(&mut self, table: &Table, chain: &str) {
        let head = Head::new(message::DELETE_RULE, 0, table.family);
        self.message(format!("flush chain {} {chain}", table.name), head, |out| {
            out.put_text(1, &table.name);
            out.put_text(2, chain);
        });
    }

    /// Adds a rule at the chain's end.
    pub fn add_rule(&mut self, table: &Table, chain: &str, rule: &Rule) {
        self.rule(message::FLAG_APPEND, table, chain, rule);
    }

    /// Adds a rule at the chain's beginning.
    pub fn insert_rule(&mut self, table: &Table, chain: &str, rule: &Rule) {
        self.rule(0, table, chain, rule);
    }

    /// Deletes the rule with this handle; it must be there (`ENOENT`).
    pub fn delete_rule(&mut self, table: &Table, chain: &str, handle: u64) {
        let head = Head::new(message::DELETE_RULE, 0, table.family);
        self.message(format!("delete rule {} {chain} {handle}", table.name), head, |out| {
            out.put_text(1, &table.name);
            out.put_text(2, chain);
            out.put_u64(3, handle);
        });
    }

    fn rule(&mut self, place: u16, table: &Table, chain: &str, rule: &Rule) {
        let flags = message::FLAG_CREATE | place;
        let head = Head::new(message::NEW_RULE, flags, table.family);
        self.message(format!("add rule {} {chain} \"{}\"", table.name, rule.comment), head, |out| {
            out.put_text(1, &table.name);
            out.put_text(2, chain);
            rule.encode(out);
        });
    }

    /// Makes a set or map unless it is there.
    pub fn add_set(&mut self, table: &Table, set: &Set) {
        self.sets += 1;
        let id = self.sets;
        let head = Head::new(message::NEW_SET, message::FLAG_CREATE, table.family);
        self.message(format!("add set {} {}", table.name, set.name), head, |out| {
            out.put_text(1, &table.name);
            set.encode(out, id);
        });
    }

    /// Deletes a set or map that no rule refers to.
    pub fn delete_set(&mut self, table: &Table, set: &str) {
        let head = Head::new(message::DELETE_SET, 0, table.family);
        self.message(format!("delete set {} {set}", table.name), head, |out| {
            out.put_text(1, &table.name);
            out.put_text(2, set);
        });
    }

    /// Adds elements. One that is there with the same value is left; with another value it is an error (`EEXIST`).
    pub fn add_elements(&mut self, table: &Table, set: &Set, elements: impl IntoIterator<Item = Element>) {
        self.elements("add", message::NEW_ELEMENT, message::FLAG_CREATE, table, set, elements);
    }

    /// Deletes elements; each must be there (`ENOENT`). Only the keys matter.
    pub fn delete_elements(&mut self, table: &Table, set: &Set, elements: impl IntoIterator<Item = Element>) {
        self.elements("delete", message::DELETE_ELEMENT, 0, table, set, elements);
    }

    /// Deletes all elements.
    pub fn flush_set(&mut self, table: &Table, set: &str) {
        let head = Head::new(message::DELETE_ELEMENT, 0, table.family);
        self.message(format!("flush set {} {set}", table.name), head, |out| {
            out.put_text(1, &table.name);
            out.put_text(2, set);
        });
    }

    fn elements(
        &mut self,
        verb: &str,
        kind: u16,
        flags: u16,
        table: &Table,
        set: &Set,
        elements: impl IntoIterator<Item = Element>,
    ) {
        let several = set.key.len() > 1;
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            let head = Head::new(kind, flags, table.family);
            let label = format!("{verb} elements of {} {}", table.name, set.name);
            self.message(label, head, |out| {
                let begin = out.bytes.len();
                out.put_text(1, &table.name);
                out.put_text(2, &set.name);
                let list = out.open(3);
                while out.bytes.len() - begin < ELEMENTS
                    && let Some(element) = elements.next()
                {
                    element.encode(out, several);
                }
                out.close(list);
            });
        }
    }

    pub(crate) fn message(&mut self, label: String, head: Head, fill: impl FnOnce(&mut Writer)) {
        self.messages.push((self.out.bytes.len(), label));
        message::write(&mut self.out, head, fill);
    }
}
