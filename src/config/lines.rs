//! Which line of a YAML file holds which key.
//!
//! Decides: a good guess, from indentation, for messages. Never does: parse values; block style only,
//! which is how configuration is written.

/// Lines (from 1) with the dotted key that each sets.
pub(super) fn keys(text: &str) -> Vec<(u64, String)> {
    let mut open: Vec<(usize, &str)> = Vec::new();
    let mut found = Vec::new();
    for (line, content) in (1..).zip(text.lines()) {
        let trimmed = content.trim_start();
        if trimmed.starts_with(['#', '-']) {
            continue;
        }
        let Some((key, _)) = trimmed.split_once(':') else { continue };
        let indent = content.len() - trimmed.len();
        open.retain(|(outer, _)| *outer < indent);
        open.push((indent, key.trim_matches(['"', '\'', ' '])));
        let path: Vec<_> = open.iter().map(|(_, key)| *key).collect();
        found.push((line, path.join(".")));
    }
    found
}

/// The line that sets `key`, or the nearest key above it.
pub(super) fn line_of(text: &str, key: &str) -> Option<u64> {
    keys(text).into_iter().find(|(_, found)| found == key).map(|(line, _)| line)
}

/// The key that a line sets.
pub(super) fn key_at(text: &str, line: u64) -> Option<String> {
    keys(text).into_iter().find(|(found, _)| *found == line).map(|(_, key)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_follow_indentation() {
        let text = "# c\na:\n  b: 1\n  c:\n    d: x\ne: 2\n";
        assert_eq!(line_of(text, "a.c.d"), Some(5));
        assert_eq!(line_of(text, "e"), Some(6));
        assert_eq!(key_at(text, 3).as_deref(), Some("a.b"));
        assert_eq!(line_of(text, "nope"), None);
    }
}
