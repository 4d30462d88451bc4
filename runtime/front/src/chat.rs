//! The chat template, written out: templates of checkpoints are recognised, never executed.

use crate::{FrontError, files};
use serde_json::Value;
use std::path::Path;

/// The system message where a conversation does not begin with one.
const SYSTEM: &str = "You are a helpful assistant.";
const TURN_END: &str = "<|im_end|>\n";

/// A piece of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text as it stands.
    Text(String),
    /// The place of an image: one `<|image_pad|>`, which [`expand`](crate::expand) repeats.
    Image,
    /// The place of a video: one `<|video_pad|>`.
    Video,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant`.
    pub role: String,
    /// What is said and shown, in order, with nothing between.
    pub parts: Vec<Part>,
}

impl Message {
    /// A message of text alone.
    pub fn text(role: &str, text: &str) -> Message {
        Message { role: role.to_owned(), parts: vec![Part::Text(text.to_owned())] }
    }

    /// What a user shows, then says.
    pub fn about_images(images: usize, text: &str) -> Message {
        let mut parts = vec![Part::Image; images];
        parts.push(Part::Text(text.to_owned()));
        Message { role: "user".to_owned(), parts }
    }

    /// What a robot's policy is asked (spec/actions.md, section 1): its views, third-person first, then the task as it
    /// is given.
    pub fn action(views: usize, task: &str) -> Message {
        Message::about_images(views, &format!("What action should the robot take to {task}?"))
    }
}

/// How a conversation is rendered, besides what is in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RenderOptions {
    /// End where the assistant's answer begins.
    pub add_generation_prompt: bool,
    /// `Picture 1: ` before the first image, and so on through the conversation; `Video 1: ` likewise.
    pub add_vision_id: bool,
}

/// The text of a conversation, as the model was trained on it. With `add_generation_prompt` it ends where the
/// assistant's answer begins.
pub fn render(messages: &[Message], add_generation_prompt: bool) -> String {
    render_with(messages, RenderOptions { add_generation_prompt, ..RenderOptions::default() })
}

/// The text of a conversation (spec/vision.md, section 5).
pub fn render_with(messages: &[Message], options: RenderOptions) -> String {
    let mut text = String::new();
    let (mut images, mut videos) = (0, 0);
    let vision = |text: &mut String, kind: &str, count: &mut usize, pad: &str| {
        *count += 1;
        if options.add_vision_id {
            text.push_str(&format!("{kind} {count}: "));
        }
        text.push_str(pad);
    };
    if messages.first().is_some_and(|m| m.role != "system") {
        begin(&mut text, "system");
        text.push_str(SYSTEM);
        text.push_str(TURN_END);
    }
    for message in messages {
        begin(&mut text, &message.role);
        for part in &message.parts {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Image => vision(&mut text, "Picture", &mut images, "<|image_pad|>"),
                Part::Video => vision(&mut text, "Video", &mut videos, "<|video_pad|>"),
            }
        }
        text.push_str(TURN_END);
    }
    if options.add_generation_prompt {
        begin(&mut text, "assistant");
    }
    text
}

fn begin(text: &mut String, role: &str) {
    for part in ["<|im_start|>", role, "\n"] {
        text.push_str(part);
    }
}

/// Templates that say what [`render`] writes: the one with images, and one that knows text alone.
const KNOWN: [&str; 2] = [include_str!("templates/vision.jinja"), include_str!("templates/text.jinja")];

/// A warning for the user if one of the checkpoint's own chat templates is not known to say what [`render`] writes.
///
/// Where such a template wraps images in `<|vision_start|>`, the warning says so: positions would be 3-D then.
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
        if let Some(template) = template.filter(|t| !is_known(t)) {
            let images = if template.contains(VISION_START) { VISION_START_NOTE } else { "" };
            return Ok(Some(format!(
                "the chat template in `{}` is not one that this program knows: prompts are rendered with Dream's own; \
                 to use another, render the prompt yourself and pass it with --raw{images}",
                path.display()
            )));
        }
    }
    Ok(None)
}

/// Where it stands before an image, the positions of that image count in 3-D.
const VISION_START: &str = "<|vision_start|>";
const VISION_START_NOTE: &str = "; that template puts `<|vision_start|>` before images, with which their positions count in 3-D; \
     Dream's own does not";

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
        && !template.contains(VISION_START)
        && template.contains(r"'<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n'")
        && template.contains(r"'<|im_start|>assistant\n'")
}
