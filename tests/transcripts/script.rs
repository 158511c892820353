//! A script: commands, and what must follow each of them.
//!
//! Decides: what is a command and what an expectation, and how a difference is shown. Never does: know what
//! a command means.

use super::global::Global;
use super::notation::words;
use super::zone::Zone;

/// How a line begins that says what must happen.
pub(crate) const MARKS: [&str; 5] = ["> ", "* ", "! ", "= ", "@ "];

/// One end of the protocol, played by a session under the commands of a script.
pub(crate) trait Player {
    /// Does one command and tells what followed.
    ///
    /// # Errors
    /// If the script is not a sensible one, in words.
    fn play(&mut self, words: &[String]) -> Result<Vec<String>, String>;
}

/// What became of a script.
#[derive(Debug, Default)]
pub(crate) struct Played {
    /// The script with what did happen.
    pub(crate) rewritten: String,
    /// Where something else happened, with file, line and difference.
    pub(crate) wrong: Vec<String>,
    /// Where the script could not be played.
    pub(crate) broken: Vec<String>,
}

/// A command with the lines that must follow.
struct Step<'a> {
    line: usize,
    command: &'a str,
    expected: Vec<(usize, &'a str)>,
    /// Comments and empty lines up to the next command.
    rest: Vec<&'a str>,
}

/// Plays a script.
pub(crate) fn play(name: &str, text: &str) -> Played {
    let mut played = Played::default();
    let (head, steps) = match parse(text) {
        Ok(parsed) => parsed,
        Err((line, command, reason)) => {
            played.broken.push(format!("{name}:{line}: `{command}`: {reason}"));
            return played;
        }
    };
    let mut out: Vec<String> = head.into_iter().map(str::to_owned).collect();
    let mut player: Option<Box<dyn Player>> = None;
    for step in steps {
        match perform(&mut player, step.command) {
            Ok(actual) => {
                played.wrong.extend(difference(name, &step, &actual));
                out.push(step.command.to_owned());
                out.extend(actual);
                out.extend(step.rest.into_iter().map(str::to_owned));
            }
            Err(reason) => {
                played.broken.push(format!("{name}:{}: `{}`: {reason}", step.line, step.command));
                return played;
            }
        }
    }
    played.rewritten = out.join("\n") + "\n";
    played
}

type Bad<'a> = (usize, &'a str, &'static str);

fn parse(text: &str) -> Result<(Vec<&str>, Vec<Step<'_>>), Bad<'_>> {
    let (mut head, mut steps) = (Vec::new(), Vec::<Step<'_>>::new());
    for (at, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
        let step = steps.last_mut();
        if line.trim().is_empty() || line.starts_with('#') {
            step.map_or(&mut head, |step| &mut step.rest).push(line);
        } else if MARKS.iter().any(|mark| line.starts_with(mark)) {
            let Some(step) = step else {
                return Err((at, line, "nothing was done yet that this could follow"));
            };
            step.expected.push((at, line));
        } else {
            steps.push(Step { line: at, command: line, expected: Vec::new(), rest: Vec::new() });
        }
    }
    Ok((head, steps))
}

fn perform(player: &mut Option<Box<dyn Player>>, command: &str) -> Result<Vec<String>, String> {
    let words = words(command)?;
    if let [side, which] = words.as_slice()
        && side == "side"
    {
        let mut new: Box<dyn Player> = match which.as_str() {
            "global" => Box::new(Global::new()),
            "zone" => Box::new(Zone::new()),
            _ => return Err("there is no such side".to_owned()),
        };
        let begins = new.play(&[])?;
        *player = Some(new);
        return Ok(begins);
    }
    let Some(player) = player else { return Err("a script starts with its side".to_owned()) };
    player.play(&words)
}

/// What is between the lines that agree at the beginning and at the end.
fn difference(name: &str, step: &Step<'_>, actual: &[String]) -> Option<String> {
    let expected: Vec<&str> = step.expected.iter().map(|(_, line)| *line).collect();
    if expected == actual {
        return None;
    }
    let same = expected.iter().zip(actual).take_while(|(e, a)| *e == a).count();
    let (left, got) = (expected.get(same..)?, actual.get(same..)?);
    let tail = left.iter().rev().zip(got.iter().rev()).take_while(|(e, a)| *e == a).count();
    let at = step
        .expected
        .get(same)
        .map_or_else(|| step.expected.last().map_or(step.line, |(line, _)| *line) + 1, |(line, _)| *line);
    let mut text = format!("{name}:{at}: after `{}`\n", step.command);
    let mut show = |prefix: &str, line: &str| {
        text.push_str(prefix);
        text.push_str(line);
        text.push('\n');
    };
    expected.iter().take(same).for_each(|line| show("            ", line));
    left.iter().take(left.len() - tail).for_each(|line| show("  expected  ", line));
    got.iter().take(got.len() - tail).for_each(|line| show("  but       ", line));
    got.iter().skip(got.len() - tail).for_each(|line| show("            ", line));
    Some(text)
}
