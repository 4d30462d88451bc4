//! Text to modules.

use super::lexer::{Lexed, ParseError, Token, lex};
use crate::dim::Dim;
use crate::graph::{Graph, Module, Origin, Port, Value};
use crate::op::Op;
use crate::text::Attribute;
use crate::types::Type;
use dreamc_num::DType;
use std::collections::BTreeMap;

/// Most dimensions of a type. What is refused here could only cost time: no op knows such types.
const RANK_MAX: usize = 4;
/// Most numbers and symbols in a dimension.
const FACTORS_MAX: usize = 16;

/// Reads a module. It is not verified: call [`crate::verify`] next.
pub fn parse(text: &str) -> Result<Module, ParseError> {
    let mut parser = Parser { tokens: lex(text)?, at: 0 };
    let mut module = Module::default();
    loop {
        match parser.peek() {
            Token::End => return Ok(module),
            Token::Word(word) if word == "symbol" => {
                parser.next();
                let name = parser.word("the symbol's name")?;
                parser.mark('<')?;
                let max = parser.int("the symbol's largest value")?;
                if module.symbols.insert(name, max).is_some() {
                    return parser.fail("this symbol is declared twice");
                }
            }
            Token::Word(word) if word == "graph" => {
                let graph = parser.graph()?;
                if module.graph(&graph.name).is_some() {
                    return parser.fail(&format!("there are two graphs `@{}`", graph.name));
                }
                module.graphs.push(graph);
            }
            _ => return parser.fail("expected `symbol` or `graph`"),
        }
    }
}

struct Parser {
    tokens: Vec<Lexed>,
    at: usize,
}

type Values = BTreeMap<u32, Value>;

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.at].token
    }

    /// The next token; the last one repeats.
    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    /// An error at the current token.
    fn fail<T>(&self, message: &str) -> Result<T, ParseError> {
        let Lexed { line, column, .. } = self.tokens[self.at];
        Err(ParseError { line, column, message: message.to_owned() })
    }

    fn eat(&mut self, mark: char) -> bool {
        let found = *self.peek() == Token::Mark(mark);
        if found {
            self.next();
        }
        found
    }

    fn mark(&mut self, mark: char) -> Result<(), ParseError> {
        if self.eat(mark) { Ok(()) } else { self.fail(&format!("expected `{mark}`")) }
    }

    fn word(&mut self, what: &str) -> Result<String, ParseError> {
        match self.peek().clone() {
            Token::Word(word) => {
                self.next();
                Ok(word)
            }
            _ => self.fail(&format!("expected {what}")),
        }
    }

    fn int(&mut self, what: &str) -> Result<u64, ParseError> {
        match *self.peek() {
            Token::Int(n) if n >= 0 => {
                self.next();
                Ok(n as u64)
            }
            _ => self.fail(&format!("expected {what}, a whole number")),
        }
    }

    fn graph(&mut self) -> Result<Graph, ParseError> {
        self.next();
        let Token::Name(name) = self.peek().clone() else {
            return self.fail("expected `@` and the graph's name");
        };
        self.next();
        let mut graph = Graph::new(name);
        let mut values = Values::new();
        self.mark('(')?;
        while !self.eat(')') {
            let number = self.value_number()?;
            self.mark(':')?;
            let ty = self.ty()?;
            let name = self.optional_text();
            let value = graph.param(name, ty);
            self.define(&mut values, number, value)?;
            if !self.eat(',') && *self.peek() != Token::Mark(')') {
                return self.fail("expected `,` or `)`");
            }
        }
        self.mark('{')?;
        while !matches!(self.peek(), Token::Word(word) if word == "return") {
            self.node(&mut graph, &mut values)?;
        }
        self.next();
        while !self.eat('}') {
            let value = self.value(&values)?;
            let name = self.optional_text();
            graph.results.push(Port { value, name });
            if !self.eat(',') && *self.peek() != Token::Mark('}') {
                return self.fail("expected `,` or `}`");
            }
        }
        Ok(graph)
    }

    /// `%2, %3 = op %0, %1 {attributes} : types loc "path"`
    fn node(&mut self, graph: &mut Graph, values: &mut Values) -> Result<(), ParseError> {
        let mut numbers = vec![self.value_number()?];
        while self.eat(',') {
            numbers.push(self.value_number()?);
        }
        self.mark('=')?;
        let op_at = self.at;
        let name = self.word("an op")?;
        let mut inputs = Vec::new();
        if matches!(self.peek(), Token::Value(_)) {
            inputs.push(self.value(values)?);
            while self.eat(',') {
                inputs.push(self.value(values)?);
            }
        }
        let mut attributes = Vec::new();
        if self.eat('{') {
            while !self.eat('}') {
                let key = self.word("an attribute")?;
                self.mark('=')?;
                attributes.push((key, self.attribute()?));
                if !self.eat(',') && *self.peek() != Token::Mark('}') {
                    return self.fail("expected `,` or `}`");
                }
            }
        }
        self.mark(':')?;
        let mut types = vec![self.ty()?];
        while self.eat(',') {
            types.push(self.ty()?);
        }
        let mut origin = Origin::default();
        if matches!(self.peek(), Token::Word(word) if word == "loc") {
            self.next();
            loop {
                match self.next() {
                    Token::Text(path) => origin.0.push(path),
                    _ => return self.fail("expected a path in quotes"),
                }
                if !self.eat(',') {
                    break;
                }
            }
        }
        if types.len() != numbers.len() {
            return self.fail("there must be as many types as results");
        }
        let op = Op::from_spelling(&name, attributes).or_else(|message| {
            self.at = op_at;
            self.fail(&message)
        })?;
        let node = graph.push(op, inputs, types, origin);
        for (number, value) in numbers.into_iter().zip(graph.node(node).outputs.clone()) {
            self.define(values, number, value)?;
        }
        Ok(())
    }

    fn value_number(&mut self) -> Result<u32, ParseError> {
        match *self.peek() {
            Token::Value(number) => {
                self.next();
                Ok(number)
            }
            _ => self.fail("expected a value such as `%0`"),
        }
    }

    fn value(&mut self, values: &Values) -> Result<Value, ParseError> {
        let number = self.value_number()?;
        match values.get(&number) {
            Some(value) => Ok(*value),
            None => {
                self.at -= 1;
                self.fail(&format!("%{number} is not defined before its use"))
            }
        }
    }

    fn define(&mut self, values: &mut Values, number: u32, value: Value) -> Result<(), ParseError> {
        match values.insert(number, value) {
            Some(_) => self.fail(&format!("%{number} is defined twice")),
            None => Ok(()),
        }
    }

    fn optional_text(&mut self) -> String {
        match self.peek().clone() {
            Token::Text(text) => {
                self.next();
                text
            }
            _ => String::new(),
        }
    }

    /// `bf16[B, S+16, 128]`
    fn ty(&mut self) -> Result<Type, ParseError> {
        let Some(dtype) = (match self.peek() {
            Token::Word(word) => word.parse::<DType>().ok(),
            _ => None,
        }) else {
            return self.fail("expected a type such as `f32[B, 64]`");
        };
        self.next();
        self.mark('[')?;
        let mut dims = Vec::new();
        while !self.eat(']') {
            dims.push(self.dim()?);
            if dims.len() > RANK_MAX {
                return self.fail(&format!("a type has at most {RANK_MAX} dimensions"));
            }
            if !self.eat(',') && *self.peek() != Token::Mark(']') {
                return self.fail("expected `,` or `]`");
            }
        }
        Ok(Type { dtype, dims })
    }

    /// `2*B*S+1`
    fn dim(&mut self) -> Result<Dim, ParseError> {
        let mut sum = Dim::default();
        let mut factors = 0;
        loop {
            let mut product = self.factor()?;
            factors += 1;
            while self.eat('*') {
                product = product.times(&self.factor()?);
                factors += 1;
            }
            if factors > FACTORS_MAX {
                return self.fail(&format!("a dimension has at most {FACTORS_MAX} numbers and symbols"));
            }
            sum = sum.plus(&product);
            if !self.eat('+') {
                return Ok(sum);
            }
        }
    }

    fn factor(&mut self) -> Result<Dim, ParseError> {
        match self.peek().clone() {
            Token::Word(name) => {
                self.next();
                Ok(Dim::symbol(&name))
            }
            Token::Int(n) if n >= 0 => {
                self.next();
                Ok(Dim::from(n as u64))
            }
            _ => self.fail("expected a number or a symbol"),
        }
    }

    fn attribute(&mut self) -> Result<Attribute, ParseError> {
        Ok(match self.next() {
            Token::Int(n) => Attribute::Int(n),
            Token::Float(x) => Attribute::Float(x),
            Token::Text(text) => Attribute::Text(text),
            Token::Word(word) => Attribute::Word(word),
            Token::Mark('[') => {
                let (mut ints, mut floats) = (Vec::new(), Vec::new());
                while !self.eat(']') {
                    match self.next() {
                        Token::Int(n) => ints.push(n),
                        Token::Float(x) => floats.push(x),
                        _ => return self.fail("expected a number"),
                    }
                    if !self.eat(',') && *self.peek() != Token::Mark(']') {
                        return self.fail("expected `,` or `]`");
                    }
                }
                match (ints.is_empty(), floats.is_empty()) {
                    (_, true) => Attribute::Ints(ints),
                    (true, false) => Attribute::Floats(floats),
                    (false, false) => return self.fail("a list holds whole numbers or others, not both"),
                }
            }
            _ => return self.fail("expected an attribute's value"),
        })
    }
}
