//! `kdsync apply`.
//!
//! Decides: that all documents of all files go in one request. Never does: send some of them.

use std::io::Read as _;
use std::path::Path;

use clap::Args;
use serde_json::Value;

use super::client::Client;
use super::document::{Document, Documents, MAX_FILE, Unknown, kind};
use super::output::{self, Output};
use super::{CliError, Server};
use crate::api::batch::{BatchAnswer, BatchRequest};

const EXAMPLES: &str = "\
Examples:
  kdsync apply -f secrets.yaml
  kdsync apply -f a.yaml -f b.json --dry-run
  kdsync get secrets -o yaml | kdsync --address http://127.0.0.1:7000 apply -f -

A document:
  type: Secret            # or GlobalSecret, which has no mesh
  mesh: default
  name: sample-secret
  data: aGVsbG8=          # base64: printf 'hello' | base64";

/// Arguments of `apply`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ApplyArgs {
    /// File with YAML or JSON documents; - reads stdin; can be repeated
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<String>,
    /// Check, say what would change, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Warn of unknown fields instead of refusing them
    #[arg(long)]
    ignore_unknown: bool,
}

/// Runs it.
pub(super) async fn run(server: &Server, args: ApplyArgs, output: &mut Output) -> Result<(), CliError> {
    let unknown = if args.ignore_unknown { Unknown::Ignored } else { Unknown::Refused };
    let mut documents = Documents::new(unknown);
    for file in &args.files {
        let (name, text) = read(file)?;
        documents.read(&name, &text);
    }
    for warning in &documents.warnings {
        output::warning(warning);
    }
    if !documents.wrong.is_empty() {
        let count = documents.wrong.len();
        let lines = documents.wrong.join("\n  ");
        let problems = if count == 1 { "problem" } else { "problems" };
        return Err(CliError::Failed(format!("{count} {problems}, nothing was applied:\n  {lines}")));
    }
    if documents.good.is_empty() {
        let files = args.files.join(", ");
        return Err(CliError::Failed(format!("no documents in {files}, nothing was applied")));
    }
    send(server, &args, documents.good, output).await
}

fn read(file: &str) -> Result<(String, String), CliError> {
    let (name, source): (_, Box<dyn std::io::Read>) = if file == "-" {
        ("stdin".to_owned(), Box::new(std::io::stdin()))
    } else {
        let opened = std::fs::File::open(Path::new(file));
        let opened = opened.map_err(|error| CliError::Failed(format!("cannot read {file}: {error}")))?;
        (file.to_owned(), Box::new(opened))
    };
    let mut bytes = Vec::new();
    let read = source.take(MAX_FILE + 1).read_to_end(&mut bytes);
    read.map_err(|error| CliError::Failed(format!("cannot read {name}: {error}")))?;
    if bytes.len() as u64 > MAX_FILE {
        let limit = MAX_FILE >> 20;
        return Err(CliError::Failed(format!("{name} is larger than {limit} MiB; split it")));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        CliError::Failed(format!("{name} is not UTF-8 at byte {offset}"))
    })?;
    Ok((name, text))
}

async fn send(
    server: &Server,
    args: &ApplyArgs,
    documents: Vec<Document>,
    output: &mut Output,
) -> Result<(), CliError> {
    let client = Client::new(server)?;
    let places: Vec<_> = documents.iter().map(|document| document.place.to_string()).collect();
    let kinds: Vec<_> = documents.iter().map(|document| kind(document.key.ty)).collect();
    let items: Vec<Value> = documents.into_iter().map(|document| document.value).collect();
    let request = BatchRequest { items, delete: Vec::new(), dry_run: args.dry_run };
    let body = serde_json::to_vec(&request).map_err(|error| CliError::Failed(error.to_string()))?;
    if body.len() as u64 > MAX_FILE {
        let limit = MAX_FILE >> 20;
        let text = format!("all documents together are more than {limit} MiB; apply them in parts");
        return Err(CliError::Failed(text));
    }
    let answer = client.post("/kdsync/batch", body).await.map_err(|error| match CliError::from(error) {
        CliError::Failed(text) => CliError::Failed(in_files(&text, &places)),
        other => other,
    })?;
    let answer: BatchAnswer = serde_json::from_value(answer)
        .map_err(|error| CliError::Failed(format!("{} answered oddly: {error}", client.address())))?;
    let suffix = if answer.dry_run { " (dry run)" } else { "" };
    for (item, kind) in answer.items.iter().zip(kinds) {
        let mesh = if item.mesh.is_empty() { String::new() } else { format!(" in mesh {}", item.mesh) };
        output.line(&format!("{kind}/{}{mesh} {}{suffix}", item.name, item.outcome))?;
    }
    for warning in &answer.warnings {
        output::warning(warning);
    }
    Ok(())
}

/// Says where the user wrote what the server calls `items[2]`.
fn in_files(text: &str, places: &[String]) -> String {
    // From the last, so that `items[1]` does not match in `items[12]`; the bracket closes it anyway.
    places.iter().enumerate().rev().fold(text.to_owned(), |text, (index, place)| {
        text.replace(&format!("items[{index}]."), &format!("{place}: "))
            .replace(&format!("items[{index}]"), place)
    })
}
