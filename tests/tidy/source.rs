//! The tree, as text.
//!
//! Decides: which files there are and what of a line is code. Never does: judge.

use std::fs;
use std::path::{Path, PathBuf};

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// One line of a source file.
pub(crate) struct Line {
    /// From 1.
    pub(crate) number: usize,
    /// Without its indentation.
    pub(crate) text: String,
}

impl Line {
    /// A line that is a comment alone.
    pub(crate) fn is_comment(&self) -> bool {
        self.text.starts_with("//")
    }

    /// The path segments that follow `prefix`; `crate::{a, b}` names two, on one line.
    pub(crate) fn words_after(&self, prefix: &str) -> Vec<String> {
        let mut words = Vec::new();
        for (at, _) in self.text.match_indices(prefix) {
            // `$crate::` and `some_crate::` are others.
            let before = self.text[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            let rest = &self.text[at + prefix.len()..];
            let list = rest.strip_prefix('{').map(|list| list.split('}').next().unwrap_or(""));
            let parts: Vec<&str> = list.map_or(vec![rest], |list| list.split(',').collect());
            words.extend(parts.iter().map(|part| identifier(part.trim())).filter(|word| !word.is_empty()));
        }
        words
    }

    /// Whether the line uses `path::…`, outside of strings.
    pub(crate) fn names_path(&self, path: &str) -> bool {
        let code = without_strings(&self.text);
        let starts = code.match_indices(&format!("{path}::")).any(|(at, _)| starts_a_path(&code, at));
        let whole = code.strip_prefix("use ").is_some_and(|used| used.trim_end_matches(';') == path);
        starts || whole
    }

    /// Whether the line calls one of these macros.
    pub(crate) fn names_macro(&self, names: &[&str]) -> bool {
        let code = without_strings(&self.text);
        names
            .iter()
            .any(|name| code.match_indices(&format!("{name}!")).any(|(at, _)| starts_a_path(&code, at)))
    }
}

fn starts_a_path(code: &str, at: usize) -> bool {
    !code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The line without what is between quotes; escapes are rare enough to be taken whole.
fn without_strings(text: &str) -> String {
    text.replace("\\\"", "").split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
}

/// The Rust files below a folder, in order, from the root of the repository.
pub(crate) fn rust_files(folder: &str) -> Vec<String> {
    let mut files = Vec::new();
    collect(&root().join(folder), &mut files);
    let mut names: Vec<String> = files
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            if !["target", "data", ".git"].contains(&name.as_str()) {
                collect(&path, files);
            }
        } else {
            files.push(path);
        }
    }
}

/// The lines of a file.
pub(crate) fn lines_of(file: &str) -> Vec<Line> {
    let text = fs::read_to_string(root().join(file)).unwrap();
    text.lines()
        .enumerate()
        .map(|(index, line)| Line { number: index + 1, text: line.trim_start().to_owned() })
        .collect()
}

/// Every text file of the repository, with its text; what is not UTF-8 is no text.
pub(crate) fn all_text() -> Vec<(String, String)> {
    let mut files = Vec::new();
    collect(root(), &mut files);
    files
        .iter()
        .filter_map(|path| {
            let name = path.strip_prefix(root()).ok()?.to_str()?.to_owned();
            // A work tree has a file .git with a path of its machine.
            (name != ".git").then_some(())?;
            Some((name, fs::read_to_string(path).ok()?))
        })
        .collect()
}

/// The messages of the `tracing` macros of a file: the literals that are no field's value.
pub(crate) fn log_messages(file: &str) -> Vec<(usize, String)> {
    let text = fs::read_to_string(root().join(file)).unwrap();
    let mut messages = Vec::new();
    for level in ["error", "warn", "info", "debug", "trace"] {
        for (at, opening) in text.match_indices(&format!("tracing::{level}!(")) {
            let call = text[at + opening.len()..].split(");").next().unwrap();
            let line = text[..at].lines().count().max(1);
            let parts: Vec<&str> = call.split('"').collect();
            let literals = parts.iter().enumerate().filter(|(index, _)| index % 2 == 1);
            let message = literals.filter(|(index, _)| {
                let before = parts[index - 1].trim_end();
                before.is_empty() || before.ends_with(',')
            });
            messages.extend(message.map(|(_, message)| (line, (*message).to_owned())));
        }
    }
    messages
}
