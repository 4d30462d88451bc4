//! The chat template, written out: templates of checkpoints are recognised, never executed.

use crate::{FrontError, files};
use serde_json::Value;
use std::path::Path;

/// The system message where a conversation does not begin with one.
const SYSTEM: &str = "You are a helpful assistant.";
/// Ends an answer.
const END: &str = "<|endoftext|>";

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// The text of a conversation, as the model was trained on it. With `add_generation_prompt` it ends where the
/// assistant's answer begins.
pub fn render(messages: &[Message], add_generation_prompt: bool) -> String {
    let mut text = String::new();
    if messages.first().is_some_and(|m| m.role != "system") {
        turn(&mut text, "system", SYSTEM);
    }
    for message in messages {
        turn(&mut text, &message.role, &message.content);
    }
    if add_generation_prompt {
        text.push_str("<|im_start|>assistant\n");
    }
    text
}

fn turn(text: &mut String, role: &str, content: &str) {
    for part in ["<|im_start|>", role, "\n", content, "<|im_end|>\n"] {
        text.push_str(part);
    }
}

/// The answer in a decoded text: what stands before the first `<|endoftext|>`.
pub fn answer(text: &str) -> &str {
    text.split_once(END).map_or(text, |(answer, _)| answer)
}

/// Templates that say for text what [`render`] writes: the one with images, and the one for text alone.
const KNOWN: [&str; 2] = [include_str!("templates/vision.jinja"), include_str!("templates/text.jinja")];

/// A warning for the user if one of the checkpoint's own chat templates is not known to say what [`render`] writes.
///
/// # Errors
///
/// Where a file that holds a template does not read.
pub fn template_warning(dir: &Path) -> Result<Option<String>, FrontError> {
    for name in ["chat_template.jinja", "chat_template.json", "tokenizer_config.json"] {
        let path = dir.join(name);
        let template = if name.ends_with(".jinja") {
            files::text(&path)?
        } else {
            files::object(&path)?.and_then(|o| default_template(o.get("chat_template")?))
        };
        if template.is_some_and(|t| !is_known(&t)) {
            return Ok(Some(format!(
                "the chat template in `{}` is not one that this program knows: prompts are rendered with Dream's own; \
                 to use another, render the prompt yourself and pass it with --raw",
                path.display()
            )));
        }
    }
    Ok(None)
}

/// A template stands as a text, or as a list of named ones.
fn default_template(value: &Value) -> Option<String> {
    let named = |list: &Vec<Value>| {
        list.iter().find(|t| t["name"] == "default")?["template"].as_str().map(str::to_owned)
    };
    value.as_str().map(str::to_owned).or_else(|| named(value.as_array()?))
}

/// Whether a template says for text what [`render`] writes.
fn is_known(template: &str) -> bool {
    let template = template.trim_end();
    KNOWN.iter().any(|known| known.trim_end() == template) || is_tool_template(template)
}

/// The template with a block for tools exists in several spellings that differ only there; without tools they say
/// the same if these are their parts.
fn is_tool_template(template: &str) -> bool {
    template.starts_with("{%- if tools %}")
        && template.contains(r"'<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n'")
        && template.contains(r"'<|im_start|>assistant\n'")
}
