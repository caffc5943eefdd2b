//! Keys in the form in which handlers give them: a reference for one column, a tuple of references for several.

use std::borrow::Cow;

use projector_model::Value;

use super::Column;

/// The key of a row: `&id`, or `(&country, &day)` for a key of two columns.
///
/// `K` is the tuple of the types of the key's columns, in the key's order.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a key of this table",
    label = "not the table's key",
    note = "the columns of the key have the types `{K}`",
    note = "write a key of one column as `&id`, and a key of several columns as a tuple: `(&country, &day)`"
)]
pub trait AsKey<K> {
    /// The values of the key's columns, in the key's order.
    fn into_values(self) -> Vec<Value>;
}

/// A value for a key column of type `C`: of the same type, or a `str` for a `String`.
#[diagnostic::on_unimplemented(
    message = "the key column of the table is a `{C}`, but a `{Self}` is given",
    label = "not the type of the key column"
)]
pub trait KeyPart<C> {
    /// The value of the key column.
    fn key_value(&self) -> Value;
}

impl<C: Column + Clone> KeyPart<C> for C {
    fn key_value(&self) -> Value {
        self.clone().into_value()
    }
}

impl KeyPart<String> for str {
    fn key_value(&self) -> Value {
        Value::Text(self.to_owned())
    }
}

impl KeyPart<String> for Cow<'_, str> {
    fn key_value(&self) -> Value {
        Value::Text(self.as_ref().to_owned())
    }
}

impl<A, Q: KeyPart<A> + ?Sized> AsKey<(A,)> for &Q {
    fn into_values(self) -> Vec<Value> {
        vec![self.key_value()]
    }
}

macro_rules! tuple {
    ($($column:ident $given:ident),+) => {
        impl<$($column, $given: KeyPart<$column> + ?Sized),+> AsKey<($($column,)+)> for ($(&$given,)+) {
            fn into_values(self) -> Vec<Value> {
                #[expect(non_snake_case, reason = "each part is named for its type")]
                let ($($given,)+) = self;
                vec![$($given.key_value()),+]
            }
        }
    };
}

tuple!(A P, B Q);
tuple!(A P, B Q, C R);
tuple!(A P, B Q, C R, D S);
tuple!(A P, B Q, C R, D S, E T);
