//! Any value as a tree, to compare two of them and to say where they differ.
//!
//! It needs `Serialize` alone. Maps are sorted, so a `HashMap` equals its copy; a `HashSet` cannot be
//! told from a list and may not.

#[cfg(test)]
mod tests;

use std::fmt::{self, Write};

use serde::ser::{self, Serialize};

/// Longest text of a value in a message, in characters.
const SHOWN: usize = 120;

/// A serialized value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tree {
    /// A number, a text, a unit: as it is shown.
    Leaf(String),
    /// A variant or newtype with what is in it.
    Named(&'static str, Box<Tree>),
    List(Vec<Tree>),
    Fields(Vec<(&'static str, Tree)>),
    /// Sorted.
    Map(Vec<(Tree, Tree)>),
}

impl Tree {
    /// The tree of a value. `Err`: why it does not serialize.
    pub(super) fn of<T: Serialize + ?Sized>(value: &T) -> Result<Tree, String> {
        value.serialize(Grow).map_err(|Failed(reason)| reason)
    }
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tree::Leaf(text) => f.write_str(text),
            Tree::Named(name, tree) => write!(f, "{name}({tree})"),
            Tree::List(items) => list(f, '[', ']', items, |f, item| write!(f, "{item}")),
            Tree::Fields(fields) => {
                list(f, '{', '}', fields, |f, (name, tree)| write!(f, "{name}: {tree}"))
            }
            Tree::Map(entries) => {
                list(f, '{', '}', entries, |f, (key, tree)| write!(f, "{key}: {tree}"))
            }
        }
    }
}

fn list<T>(
    f: &mut fmt::Formatter<'_>,
    open: char,
    close: char,
    items: &[T],
    show: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    f.write_char(open)?;
    for (n, item) in items.iter().enumerate() {
        if n > 0 {
            f.write_str(", ")?;
        }
        show(f, item)?;
    }
    f.write_char(close)
}

/// Where two trees differ first, as `` `.total`: live 5, replayed 4 ``; `None` where they are equal.
pub(super) fn difference(names: [&str; 2], left: &Tree, right: &Tree) -> Option<String> {
    let mut path = String::new();
    let (left, right) = differing(left, right, &mut path)?;
    let path = if path.is_empty() { "the value".to_owned() } else { format!("`{path}`") };
    let order = if same_elements(left, right) {
        "\nThe elements are the same, in another order. Is it a `HashSet`? Use a `BTreeSet`: its \
         encoding is the same each time."
    } else {
        ""
    };
    let [left_name, right_name] = names;
    Some(format!("{path}: {left_name} {}, {right_name} {}{order}", short(left), short(right)))
}

fn differing<'a>(a: &'a Tree, b: &'a Tree, path: &mut String) -> Option<(&'a Tree, &'a Tree)> {
    let before = path.len();
    let mut within = |step: String, a: &'a Tree, b: &'a Tree| {
        path.push_str(&step);
        let found = differing(a, b, path);
        if found.is_none() {
            path.truncate(before);
        }
        found
    };
    match (a, b) {
        (Tree::Named(one, a), Tree::Named(other, b)) if one == other => within(String::new(), a, b),
        (Tree::List(left), Tree::List(right))
            if left.len() == right.len() && !same_elements(a, b) =>
        {
            let mut pairs = left.iter().zip(right).enumerate();
            pairs.find_map(|(n, (a, b))| within(format!("[{n}]"), a, b))
        }
        (Tree::Fields(left), Tree::Fields(right)) if left.len() == right.len() => {
            let mut pairs = left.iter().zip(right);
            pairs.find_map(|((name, a), (_, b))| within(format!(".{name}"), a, b))
        }
        (Tree::Map(left), Tree::Map(right))
            if left.iter().map(|(key, _)| key).eq(right.iter().map(|(key, _)| key)) =>
        {
            let mut pairs = left.iter().zip(right);
            pairs.find_map(|((key, a), (_, b))| within(format!("[{key}]"), a, b))
        }
        _ => (a != b).then_some((a, b)),
    }
}

fn same_elements(a: &Tree, b: &Tree) -> bool {
    let (Tree::List(a), Tree::List(b)) = (a, b) else { return false };
    let sorted = |items: &[Tree]| {
        let mut items = items.to_vec();
        items.sort_unstable();
        items
    };
    a != b && sorted(a) == sorted(b)
}

fn short(tree: &Tree) -> String {
    let text = tree.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

/// Why a value does not serialize.
#[derive(Debug)]
struct Failed(String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

impl ser::Error for Failed {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Failed(reason.to_string())
    }
}

/// The serializer that makes trees.
struct Grow;

/// A tree with parts, under way.
struct Parts {
    variant: Option<&'static str>,
    items: Vec<Tree>,
    fields: Vec<(&'static str, Tree)>,
    entries: Vec<(Tree, Tree)>,
    key: Option<Tree>,
}

fn parts(variant: Option<&'static str>) -> Result<Parts, Failed> {
    Ok(Parts { variant, items: vec![], fields: vec![], entries: vec![], key: None })
}

impl Parts {
    fn wrap(variant: Option<&'static str>, tree: Tree) -> Tree {
        match variant {
            Some(variant) => Tree::Named(variant, Box::new(tree)),
            None => tree,
        }
    }

    fn list(self) -> Result<Tree, Failed> {
        Ok(Self::wrap(self.variant, Tree::List(self.items)))
    }

    fn fields(self) -> Result<Tree, Failed> {
        Ok(Self::wrap(self.variant, Tree::Fields(self.fields)))
    }
}

macro_rules! leaves {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(self, value: $type) -> Result<Tree, Failed> {
            Ok(Tree::Leaf(format!("{value:?}")))
        })*
    };
}

impl ser::Serializer for Grow {
    type Ok = Tree;
    type Error = Failed;
    type SerializeSeq = Parts;
    type SerializeTuple = Parts;
    type SerializeTupleStruct = Parts;
    type SerializeTupleVariant = Parts;
    type SerializeMap = Parts;
    type SerializeStruct = Parts;
    type SerializeStructVariant = Parts;

    leaves! {
        serialize_bool: bool, serialize_char: char, serialize_str: &str, serialize_bytes: &[u8],
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64,
        serialize_i128: i128, serialize_u128: u128, serialize_f32: f32, serialize_f64: f64
    }

    fn serialize_none(self) -> Result<Tree, Failed> {
        Ok(Tree::Leaf("None".to_owned()))
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Tree, Failed> {
        Ok(Tree::Named("Some", Box::new(value.serialize(Grow)?)))
    }

    fn serialize_unit(self) -> Result<Tree, Failed> {
        Ok(Tree::Leaf("()".to_owned()))
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<Tree, Failed> {
        Ok(Tree::Leaf(name.to_owned()))
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<Tree, Failed> {
        Ok(Tree::Leaf(variant.to_owned()))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<Tree, Failed> {
        value.serialize(Grow)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Tree, Failed> {
        Ok(Tree::Named(variant, Box::new(value.serialize(Grow)?)))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Parts, Failed> {
        parts(None)
    }

    fn serialize_tuple(self, _: usize) -> Result<Parts, Failed> {
        parts(None)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Parts, Failed> {
        parts(None)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Parts, Failed> {
        parts(Some(variant))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Parts, Failed> {
        parts(None)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Parts, Failed> {
        parts(None)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Parts, Failed> {
        parts(Some(variant))
    }

    /// As postcard: what types write for people is not what is stored.
    fn is_human_readable(&self) -> bool {
        false
    }
}

macro_rules! lists {
    ($($trait:ident.$method:ident),*) => {
        $(impl ser::$trait for Parts {
            type Ok = Tree;
            type Error = Failed;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failed> {
                self.items.push(value.serialize(Grow)?);
                Ok(())
            }

            fn end(self) -> Result<Tree, Failed> {
                self.list()
            }
        })*
    };
}

lists!(
    SerializeSeq.serialize_element,
    SerializeTuple.serialize_element,
    SerializeTupleStruct.serialize_field,
    SerializeTupleVariant.serialize_field
);

macro_rules! structs {
    ($($trait:ident),*) => {
        $(impl ser::$trait for Parts {
            type Ok = Tree;
            type Error = Failed;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), Failed> {
                self.fields.push((name, value.serialize(Grow)?));
                Ok(())
            }

            fn end(self) -> Result<Tree, Failed> {
                self.fields()
            }
        })*
    };
}

structs!(SerializeStruct, SerializeStructVariant);

impl ser::SerializeMap for Parts {
    type Ok = Tree;
    type Error = Failed;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Failed> {
        self.key = Some(key.serialize(Grow)?);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failed> {
        let key = self.key.take().ok_or_else(|| Failed("a value without a key".to_owned()))?;
        self.entries.push((key, value.serialize(Grow)?));
        Ok(())
    }

    fn end(mut self) -> Result<Tree, Failed> {
        self.entries.sort_unstable();
        Ok(Tree::Map(self.entries))
    }
}
