//! Tables for people, on the error output, beside the lines of JSON.

/// A table in Markdown.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[&str]) -> Self {
        let line = head.iter().map(|_| "---".to_owned()).collect();
        Table { rows: vec![head.iter().map(|it| (*it).to_owned()).collect(), line] }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Shows it.
    pub(crate) fn print(&self, title: &str) {
        eprintln!("\n### {title}\n");
        for row in &self.rows {
            eprintln!("| {} |", row.join(" | "));
        }
        eprintln!();
    }
}
