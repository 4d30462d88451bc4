//! Tokens of the text form.

/// The text is not a module. Lines and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct ParseError {
    /// Line of the offending token.
    pub line: u32,
    /// Column of the offending token, in characters.
    pub column: u32,
    /// What is wrong and what was expected.
    pub message: String,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// `graph`, `f32`, `B`.
    Word(String),
    /// `%3`.
    Value(u32),
    /// `@name`.
    Name(String),
    /// `12`, `-3`.
    Int(i64),
    /// `1e-6`.
    Float(f32),
    /// `"text"`.
    Text(String),
    /// Anything else, one character; `<=` is `<`.
    Mark(char),
    End,
}

pub(super) struct Lexed {
    pub(super) token: Token,
    pub(super) line: u32,
    pub(super) column: u32,
}

/// All tokens; the last is `End`.
pub(super) fn lex(text: &str) -> Result<Vec<Lexed>, ParseError> {
    let mut tokens = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let chars: Vec<char> = line.chars().collect();
        let mut at = 0;
        while at < chars.len() {
            let (start, c) = (at, chars[at]);
            let place = |message: &str| ParseError {
                line: number as u32 + 1,
                column: start as u32 + 1,
                message: message.to_owned(),
            };
            let run = |from: usize, is: fn(char) -> bool| {
                from + chars[from..].iter().take_while(|c| is(**c)).count()
            };
            let string = |from: usize, to: usize| chars[from..to].iter().collect::<String>();
            let token = match c {
                '#' => break,
                _ if c.is_whitespace() => {
                    at += 1;
                    continue;
                }
                '%' => {
                    at = run(at + 1, |c| c.is_ascii_digit());
                    Token::Value(
                        string(start + 1, at).parse().map_err(|_| place("a value is `%` and a number"))?,
                    )
                }
                '@' => {
                    at = run(at + 1, is_name);
                    Token::Name(string(start + 1, at))
                }
                '"' => {
                    let (text, end) =
                        quoted(&chars, at + 1).ok_or_else(|| place("the text has no closing quote"))?;
                    at = end;
                    Token::Text(text)
                }
                '0'..='9' | '-' => {
                    at = run(at + 1, |c| c.is_ascii_alphanumeric() || c == '.');
                    // An exponent's sign belongs to the number.
                    if chars[at - 1] == 'e' && chars.get(at).is_some_and(|c| *c == '-' || *c == '+') {
                        at = run(at + 1, |c| c.is_ascii_digit());
                    }
                    let text = string(start, at);
                    let int = text.parse().ok().map(Token::Int);
                    let float = || text.parse().ok().filter(|x: &f32| x.is_finite()).map(Token::Float);
                    int.or_else(float).ok_or_else(|| place("this is no number, or not a finite one"))?
                }
                _ if is_name(c) => {
                    at = run(at, is_name);
                    Token::Word(string(start, at))
                }
                '<' if chars.get(at + 1) == Some(&'=') => {
                    at += 2;
                    Token::Mark('<')
                }
                _ => {
                    at += 1;
                    Token::Mark(c)
                }
            };
            tokens.push(Lexed { token, line: number as u32 + 1, column: start as u32 + 1 });
        }
    }
    let line = text.lines().count() as u32 + 1;
    tokens.push(Lexed { token: Token::End, line, column: 1 });
    Ok(tokens)
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '.'
}

/// The text up to the closing quote, and the place behind it.
fn quoted(chars: &[char], mut at: usize) -> Option<(String, usize)> {
    let mut text = String::new();
    loop {
        match chars.get(at)? {
            '"' => return Some((text, at + 1)),
            '\\' => {
                at += 1;
                text.push(if *chars.get(at)? == 'n' { '\n' } else { chars[at] });
            }
            c => text.push(*c),
        }
        at += 1;
    }
}
