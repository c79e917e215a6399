//! Which file of `src` takes which names from which other. Read from tokens, so that comments and texts name
//! nothing; code that only tests are built of is left out.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A module, and a name in it, by its path from the crate's root.
pub(crate) type Name = Vec<String>;

/// The name that is written so, with slashes.
pub(crate) fn name(text: &str) -> Name {
    text.split('/').map(str::to_owned).collect()
}

#[derive(Default)]
struct File {
    /// What `use` brings in, under which name, and whether it is handed on.
    uses: Vec<(Name, String, bool)>,
    /// Paths of two parts or more in the code.
    paths: Vec<Name>,
}

/// The files of a crate, each of which is one module.
pub(crate) struct Imports {
    files: BTreeMap<Name, File>,
}

impl Imports {
    /// Reads files below `src`; those that tests alone are built of are left out.
    pub(crate) fn read(src: &Path, files: &[PathBuf]) -> Self {
        let texts = files.iter().filter_map(|path| {
            let inside = path.strip_prefix(src).unwrap().with_extension("");
            let mut module = name(inside.to_str().unwrap());
            if module
                .last()
                .is_some_and(|last| last == "mod" || last == "lib")
            {
                module.pop();
            }
            let is_left_out = module.iter().any(|part| part == "tests") || module == ["main"];
            (!is_left_out).then(|| (module, std::fs::read_to_string(path).unwrap()))
        });
        Self::of(texts)
    }

    /// Reads the text of each module.
    pub(crate) fn of(texts: impl IntoIterator<Item = (Name, String)>) -> Self {
        let read = |(module, text): (Name, String)| {
            let mut file = File::default();
            file.walk(text.parse().unwrap());
            (module, file)
        };
        Self {
            files: texts.into_iter().map(read).collect(),
        }
    }

    /// For each file the names it takes from each other one. Where a file only hands a name on (`pub use`), it
    /// is taken from where it is defined; the file that hands it on takes nothing.
    pub(crate) fn taken(&self) -> BTreeMap<(Name, Name), BTreeSet<String>> {
        let mut taken: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for module in self.files.keys() {
            for path in self.named_in(module, false) {
                let home = self.home(&path, 0);
                // A module by itself is no name in it: what is taken is what stands behind it.
                if home != path && home != *module {
                    let last = path.last().unwrap().clone();
                    taken
                        .entry((module.clone(), home))
                        .or_default()
                        .insert(last);
                }
            }
        }
        taken
    }

    /// All full paths that a file names, those that it hands on included if wanted.
    pub(crate) fn named_in(&self, module: &Name, with_handed_on: bool) -> Vec<Name> {
        let file = &self.files[module];
        let uses = file.uses.iter();
        let uses = uses.filter(|(_, _, handed_on)| with_handed_on || !handed_on);
        let paths = uses.map(|(path, _, _)| path).chain(&file.paths);
        paths.filter_map(|path| self.full(module, path)).collect()
    }

    pub(crate) fn modules(&self) -> impl Iterator<Item = &Name> {
        self.files.keys()
    }

    /// The path from the crate's root; `None` if it leads out of the crate.
    fn full(&self, module: &Name, path: &Name) -> Option<Name> {
        let (first, rest) = path.split_first()?;
        let mut full = match first.as_str() {
            "crate" => Vec::new(),
            "self" => module.clone(),
            "super" => module[..module.len().checked_sub(1)?].to_vec(),
            name => {
                let used = self.files[module]
                    .uses
                    .iter()
                    .find(|(_, as_name, _)| as_name == name);
                match used {
                    Some((used, _, _)) if used[0] != name => self.full(module, used)?,
                    _ => {
                        let child = [module.as_slice(), &[name.to_owned()]].concat();
                        self.files.contains_key(&child).then_some(child)?
                    }
                }
            }
        };
        for part in rest {
            match part.as_str() {
                "super" => drop(full.pop()),
                "self" => {}
                _ => full.push(part.clone()),
            }
        }
        Some(full)
    }

    /// The module in which a name is defined.
    fn home(&self, path: &Name, turns: usize) -> Name {
        let known = (0..=path.len())
            .rev()
            .find(|end| self.files.contains_key(&path[..*end]));
        let end = known.unwrap_or(0);
        let module = path[..end].to_vec();
        let handed_on = path.get(end).and_then(|name| {
            let mut uses = self.files[&module].uses.iter();
            uses.find(|(_, as_name, handed_on)| *handed_on && as_name == name)
        });
        match handed_on.and_then(|(used, _, _)| self.full(&module, used)) {
            Some(used) if turns < 8 => {
                self.home(&[used.as_slice(), &path[end + 1..]].concat(), turns + 1)
            }
            _ => module,
        }
    }

    /// The loops among the files: each as a list of files of which every one takes from the next.
    pub(crate) fn loops(&self) -> Vec<Vec<Name>> {
        let taken = self.taken();
        let mut next: BTreeMap<&Name, Vec<&Name>> = BTreeMap::new();
        for (by, of) in taken.keys() {
            next.entry(by).or_default().push(of);
        }
        let mut found = Vec::new();
        let mut known: BTreeSet<&Name> = BTreeSet::new();
        for start in self.files.keys() {
            if known.contains(start) {
                continue;
            }
            // The shortest way from a file back to itself.
            let mut from: BTreeMap<&Name, &Name> = BTreeMap::new();
            let mut reached = vec![start];
            let mut at = 0;
            while let Some(file) = reached.get(at).copied() {
                at += 1;
                for to in next.get(file).into_iter().flatten().copied() {
                    if !from.contains_key(to) {
                        from.insert(to, file);
                        reached.push(to);
                    }
                }
            }
            if !from.contains_key(start) {
                continue;
            }
            let mut way = Vec::new();
            let mut file = from[start];
            while file != start {
                known.insert(file);
                way.push(file.clone());
                file = from[file];
            }
            way.push(start.clone());
            way.reverse();
            found.push(way);
        }
        found
    }
}

impl File {
    fn walk(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            at = match token {
                TokenTree::Punct(mark) if mark.as_char() == '#' && is_for_tests(&tokens, at) => {
                    behind_item(&tokens, at + 2)
                }
                // Of `pub(in crate::api)` nothing is taken.
                TokenTree::Group(_) if is_visibility(&tokens, at) => at + 1,
                TokenTree::Group(group) => {
                    self.walk(group.stream());
                    at + 1
                }
                TokenTree::Ident(word) if word == "use" && !is_mark(&tokens, at + 1, '<') => {
                    let end = (at..tokens.len())
                        .find(|end| is_mark(&tokens, *end, ';'))
                        .unwrap_or(tokens.len());
                    let is_pub = at > 0
                        && (is_word(&tokens, at - 1, "pub") || is_visibility(&tokens, at - 1));
                    self.read_use(&tokens[at + 1..end], &Vec::new(), is_pub);
                    end
                }
                TokenTree::Ident(_) => self.read_path(&tokens, at),
                _ => at + 1,
            };
        }
    }

    fn read_path(&mut self, tokens: &[TokenTree], at: usize) -> usize {
        let goes_on =
            is_mark(tokens, at.wrapping_sub(1), ':') && is_mark(tokens, at.wrapping_sub(2), ':');
        let mut path = vec![tokens[at].to_string()];
        let mut end = at + 1;
        while is_mark(tokens, end, ':') && is_mark(tokens, end + 1, ':') {
            let Some(TokenTree::Ident(word)) = tokens.get(end + 2) else {
                break;
            };
            path.push(word.to_string());
            end += 3;
        }
        if path.len() > 1 && !goes_on {
            self.paths.push(path);
        }
        end
    }

    fn read_use(&mut self, tokens: &[TokenTree], before: &Name, is_pub: bool) {
        for part in
            tokens.split(|token| matches!(token, TokenTree::Punct(mark) if mark.as_char() == ','))
        {
            let mut path = before.clone();
            let mut name = None;
            let mut words = part.iter();
            while let Some(token) = words.next() {
                match token {
                    TokenTree::Ident(word) if word == "as" => {
                        name = words.next().map(ToString::to_string);
                    }
                    TokenTree::Ident(word) => path.push(word.to_string()),
                    TokenTree::Group(group) => {
                        let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                        self.read_use(&inner, &path, is_pub);
                        path.clear();
                    }
                    _ => {}
                }
            }
            if path.last().is_some_and(|last| last == "self") && path.len() > 1 {
                path.pop();
            }
            if let Some(last) = path.last() {
                let name = name.unwrap_or_else(|| last.clone());
                self.uses.push((path, name, is_pub));
            }
        }
    }
}

fn is_mark(tokens: &[TokenTree], at: usize, mark: char) -> bool {
    matches!(tokens.get(at), Some(TokenTree::Punct(found)) if found.as_char() == mark)
}

fn is_word(tokens: &[TokenTree], at: usize, word: &str) -> bool {
    matches!(tokens.get(at), Some(TokenTree::Ident(found)) if found == word)
}

/// Whether the parentheses at a place are those behind a `pub`.
fn is_visibility(tokens: &[TokenTree], at: usize) -> bool {
    at > 0
        && is_word(tokens, at - 1, "pub")
        && matches!(tokens.get(at), Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis)
}

/// Whether `#[cfg(test)]` stands at a place.
fn is_for_tests(tokens: &[TokenTree], at: usize) -> bool {
    matches!(tokens.get(at + 1), Some(TokenTree::Group(group)) if group.to_string().replace(' ', "") == "[cfg(test)]")
}

/// The place behind an item, a field or a statement.
fn behind_item(tokens: &[TokenTree], from: usize) -> usize {
    let is_use = (from..from + 3).any(|at| is_word(tokens, at, "use"));
    let ends = |token: &TokenTree| match token {
        TokenTree::Punct(mark) => mark.as_char() == ';' || mark.as_char() == ',',
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace && !is_use,
        _ => false,
    };
    let end = tokens[from..].iter().position(ends);
    end.map_or(tokens.len(), |end| from + end + 1)
}
