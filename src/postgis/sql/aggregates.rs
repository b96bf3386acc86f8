//! Parses the aggregates of the configuration: the calls whose values can be folded row by row, and the text around
//! them.

use crate::cells::Fold;
use crate::postgis::layer::Layer;

/// A part of an aggregate expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AggregatePiece<'a> {
    /// SQL that stays as it is.
    Text(&'a str),
    Rows,
    AggregateCall(AggregateCall<'a>),
}

/// A call of an aggregate function over the rows of a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AggregateCall<'a> {
    pub(crate) function: AggregateFunction,
    /// Its argument; `*` for `count(*)` with a filter.
    argument: &'a str,
    filter: Option<&'a str>,
}

/// An aggregate function whose value does not depend on the order of its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AggregateFunction {
    Count,
    CountDistinct,
    Min,
    Max,
    Sum,
    Average,
    And,
    Or,
}

impl AggregateFunction {
    fn named(word: &str) -> Option<AggregateFunction> {
        Some(match &*word.to_ascii_lowercase() {
            "count" => AggregateFunction::Count,
            "min" => AggregateFunction::Min,
            "max" => AggregateFunction::Max,
            "sum" => AggregateFunction::Sum,
            "avg" => AggregateFunction::Average,
            "bool_and" | "every" => AggregateFunction::And,
            "bool_or" => AggregateFunction::Or,
            _ => return None,
        })
    }

    /// How its values are folded. An average takes two folds: a sum and a count.
    pub(crate) const fn folds(self) -> &'static [Fold] {
        match self {
            AggregateFunction::Count => &[Fold::Values],
            AggregateFunction::CountDistinct => &[Fold::Distinct],
            AggregateFunction::Min | AggregateFunction::And => &[Fold::Least],
            AggregateFunction::Max | AggregateFunction::Or => &[Fold::Greatest],
            AggregateFunction::Sum => &[Fold::Sum],
            AggregateFunction::Average => &[Fold::Sum, Fold::Values],
        }
    }
}

impl AggregateCall<'_> {
    /// SQL over a row for the value that is folded; NULL if the row has no value.
    pub(crate) fn value(&self, fold: Fold) -> String {
        // Like count, num_nonnulls distinguishes a row value of NULLs from NULL; IS NULL does not.
        let is_set = |argument: &str| format!("CASE WHEN num_nonnulls(({argument}\n)) = 1 THEN true END");
        let value = match (fold, self.argument) {
            (Fold::Values, "*") => "true".to_owned(),
            (Fold::Values, argument) => is_set(argument),
            (_, argument) => format!("({argument}\n)"),
        };
        match self.filter {
            Some(filter) => format!("CASE WHEN ({filter}\n) THEN {value} END"),
            None => value,
        }
    }
}

/// Splits an expression into pieces; `None` if only the server's parser can tell the meaning of a part.
pub(crate) fn pieces(sql: &str) -> Option<Vec<AggregatePiece<'_>>> {
    let (mut pieces, mut text, mut at) = (Vec::new(), 0, 0);
    while at < sql.len() {
        let (token, end) = token(sql, at)?;
        let word = &sql[at..end];
        // An aggregate inside a subquery may belong to the subquery.
        if ["select", "values", "table", "with"].iter().any(|query| word.eq_ignore_ascii_case(query)) {
            return None;
        }
        let open = past_space(sql, end);
        let called = token == Token::Word && sql[open..].starts_with('(');
        let Some(function) = AggregateFunction::named(word).filter(|_| called) else {
            at = end;
            continue;
        };
        // A function of another schema.
        if sql[..at].trim_end().ends_with('.') {
            return None;
        }
        let (piece, end) = call(sql, function, open)?;
        pieces.extend([AggregatePiece::Text(&sql[text..at]), piece]);
        (at, text) = (end, end);
    }
    pieces.push(AggregatePiece::Text(&sql[text..]));
    Some(pieces)
}

/// Parses a call whose arguments begin at the parenthesis at `open`. Returns the call and its end.
fn call(sql: &str, function: AggregateFunction, open: usize) -> Option<(AggregatePiece<'_>, usize)> {
    let mut end = closing(sql, open)?;
    let mut argument = sql[open + 1..end - 1].trim();
    let mut function = function;
    if let Some(rest) = without_word(argument, "distinct") {
        // DISTINCT does not change the least or the greatest value, but it changes a sum.
        function = match function {
            AggregateFunction::Count => AggregateFunction::CountDistinct,
            AggregateFunction::Sum | AggregateFunction::Average => return None,
            other => other,
        };
        argument = rest;
    }
    let mut filter = None;
    let next = past_space(sql, end);
    if let Some(rest) = without_word(&sql[next..], "filter") {
        let open = sql.len() - rest.len();
        end = sql[open..].starts_with('(').then(|| closing(sql, open)).flatten()?;
        filter = Some(without_word(sql[open + 1..end - 1].trim(), "where")?);
    }
    let is_over = ["over", "within"].iter().any(|word| without_word(&sql[past_space(sql, end)..], word).is_some());
    let is_plain = |part: &str| {
        let lower = part.to_ascii_lowercase();
        !["!xmin!", "!xmax!", "!ymin!", "!ymax!", "!cell!"].iter().any(|name| lower.contains(name))
    };
    let is_one = argument == "*" || is_single(argument)?;
    if is_over || !is_one || !is_plain(argument) || !filter.is_none_or(is_plain) {
        return None;
    }
    let piece = match (function, argument, filter) {
        (AggregateFunction::Count, "*", None) => AggregatePiece::Rows,
        (AggregateFunction::Count, "*", Some(_)) => {
            AggregatePiece::AggregateCall(AggregateCall { function, argument, filter })
        }
        (_, "*", _) => return None,
        _ => AggregatePiece::AggregateCall(AggregateCall { function, argument, filter }),
    };
    Some((piece, end))
}

/// Whether a call has exactly one argument, without `ALL`, `VARIADIC` or an order.
fn is_single(arguments: &str) -> Option<bool> {
    let mut at = 0;
    while at < arguments.len() {
        let (token, end) = token(arguments, at)?;
        let one = &arguments[at..end];
        let refused = ["all", "variadic", "order"].iter().any(|word| one.eq_ignore_ascii_case(word));
        if one == "," || token == Token::Word && refused {
            return Some(false);
        }
        at = if token == Token::Open { closing(arguments, at)? } else { end };
    }
    Some(!arguments.is_empty())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    /// An unquoted name, a keyword, or a number.
    Word,
    /// An opening parenthesis or bracket.
    Open,
    /// A closing parenthesis or bracket.
    Close,
    /// Anything else: a text literal, a quoted name, an operator, a space.
    Other,
}

/// The token that begins at `at`, and its end. `None` for tokens with lexical rules of their own: comments, dollar
/// quotes, backslashes.
fn token(sql: &str, at: usize) -> Option<(Token, usize)> {
    let rest = &sql[at..];
    let first = rest.chars().next()?;
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || !c.is_ascii();
    if is_word(first) {
        let length = rest.find(|c: char| !is_word(c) && c != '$').unwrap_or(rest.len());
        return Some((Token::Word, at + length));
    }
    match first {
        '\'' | '"' => {
            let mut end = at + 1;
            loop {
                end += sql[end..].find(first)? + 1;
                if !sql[end..].starts_with(first) {
                    break;
                }
                end += 1;
            }
            (!sql[at..end].contains('\\')).then_some((Token::Other, end))
        }
        '$' | '\\' => None,
        '-' if rest.starts_with("--") => None,
        '/' if rest.starts_with("/*") => None,
        '(' | '[' => Some((Token::Open, at + 1)),
        ')' | ']' => Some((Token::Close, at + 1)),
        _ => Some((Token::Other, at + first.len_utf8())),
    }
}

/// The position after the parenthesis that closes the one at `open`.
fn closing(sql: &str, open: usize) -> Option<usize> {
    let (mut at, mut depth) = (open, 0_usize);
    loop {
        let (token, end) = token(sql, at)?;
        match token {
            Token::Open => depth += 1,
            Token::Close => depth -= 1,
            Token::Word | Token::Other => {}
        }
        if depth == 0 {
            return Some(end);
        }
        at = end;
    }
}

fn past_space(sql: &str, at: usize) -> usize {
    sql.len() - sql[at..].trim_start().len()
}

/// The rest of the text after a keyword; `None` if the text does not begin with the keyword.
fn without_word<'a>(sql: &'a str, word: &str) -> Option<&'a str> {
    let (token, end) = token(sql, 0)?;
    (token == Token::Word && sql[..end].eq_ignore_ascii_case(word)).then(|| sql[end..].trim_start())
}

/// The names of a cell's bounds and number, without their exclamation marks.
const BOUNDS: [&str; 5] = ["xmin", "ymin", "xmax", "ymax", "cell"];

/// Words of the grammar, which no function or type of the database can take the meaning of.
const GRAMMAR: [&str; 30] = [
    "true",
    "false",
    "null",
    "and",
    "or",
    "not",
    "is",
    "in",
    "between",
    "case",
    "when",
    "then",
    "else",
    "end",
    "cast",
    "as",
    "least",
    "greatest",
    "coalesce",
    "nullif",
    "int",
    "integer",
    "bigint",
    "smallint",
    "real",
    "double",
    "precision",
    "numeric",
    "decimal",
    "boolean",
];

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

fn is_in(word: &str, known: &[&str]) -> bool {
    known.iter().any(|known| word.eq_ignore_ascii_case(known))
}

/// True if a word means the same in each database.
fn is_grammar(word: &str) -> bool {
    let is_number = word.starts_with(|first: char| first.is_ascii_digit()) && word.parse::<f64>().is_ok();
    is_number || is_in(word, &BOUNDS) || is_in(word, &GRAMMAR)
}

/// On what an expression over the rows of a cell depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DependsOn {
    /// On the cell alone: its bounds, its number.
    Cell,
    /// On the number of its rows and on folded values alone.
    Values,
}

/// On what an expression over the rows of a cell depends; `None` if it depends on both, or perhaps on something else,
/// as one that calls a function does.
pub(crate) fn depends_on(sql: &str) -> Option<DependsOn> {
    let (mut bounds, mut values) = (false, false);
    for piece in pieces(sql).filter(|_| !sql.contains(['\'', '"']))? {
        let AggregatePiece::Text(text) = piece else {
            values = true;
            continue;
        };
        bounds |= words(text).any(|word| is_in(word, &BOUNDS));
        if !words(text).all(is_grammar) {
            return None;
        }
    }
    match (bounds, values) {
        (true, true) => None,
        (true, false) => Some(DependsOn::Cell),
        (false, _) => Some(DependsOn::Values),
    }
}

/// True if an aggregate depends only on the number of its rows.
pub(crate) fn only_counts(sql: &str) -> bool {
    !sql.contains(['\'', '"'])
        && pieces(sql).is_some_and(|pieces| {
            pieces.iter().all(|piece| match piece {
                AggregatePiece::Text(text) => words(text).all(is_grammar),
                AggregatePiece::Rows => true,
                AggregatePiece::AggregateCall(_) => false,
            })
        })
}

/// True if the features of a layer's cells depend only on the number of their rows.
pub(crate) fn needs_only_counts(layer: &Layer) -> bool {
    layer.cells().is_some_and(|cells| !cells.keeps_lone) && layer.aggregates().all(only_counts)
}

/// The calls in an expression other than `count(*)`; `None` if the expression cannot be parsed.
pub(crate) fn calls(sql: &str) -> Option<Vec<AggregateCall<'_>>> {
    let call = |piece| if let AggregatePiece::AggregateCall(call) = piece { Some(call) } else { None };
    Some(pieces(sql)?.into_iter().filter_map(call).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expression with each call as `<function argument | filter>`.
    fn parsed(sql: &str) -> Option<String> {
        let shown = |piece: &AggregatePiece<'_>| match piece {
            AggregatePiece::Text(text) => (*text).to_owned(),
            AggregatePiece::Rows => "<rows>".to_owned(),
            AggregatePiece::AggregateCall(AggregateCall { function, argument, filter }) => match filter {
                Some(filter) => format!("<{function:?} {argument} | {filter}>"),
                None => format!("<{function:?} {argument}>"),
            },
        };
        Some(pieces(sql)?.iter().map(shown).collect())
    }

    #[test]
    fn calls_are_found() {
        for (sql, found) in [
            ("(count(*)\n)", "(<rows>\n)"),
            ("round(AVG( workers ), 1)", "round(<Average workers>, 1)"),
            ("count (DISTINCT country_code)::int4", "<CountDistinct country_code>::int4"),
            ("count(DISTINCT(a))", "<CountDistinct (a)>"),
            ("max(DISTINCT a) - min(a)", "<Max a> - <Min a>"),
            (
                "count(*) filter (where a > f(b, ')')) + sum(x) FILTER(WHERE c)",
                "<Count * | a > f(b, ')')> + <Sum x | c>",
            ),
            ("sum(coalesce(a, 0)) || 'count(x)' || \"max(y)\"", "<Sum coalesce(a, 0)> || 'count(x)' || \"max(y)\""),
            ("bool_or(a) AND every(b[1])", "<Or a> AND <And b[1]>"),
            ("!xmin! + count(*)", "!xmin! + <rows>"),
            ("recount(a) + count + max", "recount(a) + count + max"),
            ("count(a != 'it''s')", "<Count a != 'it''s'>"),
        ] {
            assert_eq!(parsed(sql).as_deref(), Some(found), "{sql}");
        }
    }

    #[test]
    fn uncertain_expressions_are_left_to_the_database() {
        for sql in [
            "sum(DISTINCT a)",
            "mine.max(a)",
            "mine . max(a)",
            "count(ALL a)",
            "max(a ORDER BY b)",
            "max(a, b)",
            "sum(a) OVER ()",
            "count(*) FILTER (a)",
            "sum(*)",
            "max()",
            "max(a) -- the last",
            "max(a /* or b */)",
            "max($$a$$)",
            "max(E'\\n')",
            "max(x - !xmin!)",
            "count(*) FILTER (WHERE x > !XMIN!)",
            "max(a",
            "max('a)",
            "count(*) > (SELECT count(*) FROM rates)",
            "max(a) - (Select max(a) FROM rates)",
            "EXISTS (TABLE rates) AND count(*) > 1",
            "count(*) IN (VALUES (count(*)))",
        ] {
            assert_eq!(parsed(sql), None, "{sql}");
        }
    }

    #[test]
    fn the_value_of_a_row_stands_between_parentheses() {
        let value = |sql| match &pieces(sql).unwrap()[1] {
            AggregatePiece::AggregateCall(call) => call.value(call.function.folds()[0]),
            other => panic!("{other:?}"),
        };
        assert_eq!(value("max(a)"), "(a\n)");
        assert_eq!(value("count(a)"), "CASE WHEN num_nonnulls((a\n)) = 1 THEN true END");
        assert_eq!(value("count(*) FILTER (WHERE a OR b)"), "CASE WHEN (a OR b\n) THEN true END");
        assert_eq!(value("sum(a) FILTER (WHERE b)"), "CASE WHEN (b\n) THEN (a\n) END");
    }

    #[test]
    fn counts_are_distinguished_from_other_aggregates() {
        for sql in ["(count(*)\n)", "count(*) * 2 > 3 AND NOT true", "!xmin! + COUNT( * )", "1", "least(count(*), 100)"]
        {
            assert!(only_counts(sql), "{sql}");
        }
        for sql in ["count(a)", "count(*)::text", "'a'", "count(*) FILTER (WHERE true)", "count(*) -- 1", "sum(1)"] {
            assert!(!only_counts(sql), "{sql}");
        }
    }

    #[test]
    fn what_an_expression_depends_on_is_known_if_it_calls_no_function() {
        for (sql, expected) in [
            ("count(*)", Some(DependsOn::Values)),
            ("LEAST(count(*), 100)::int", Some(DependsOn::Values)),
            ("CASE WHEN sum(workers) > 3 THEN avg(f(a, 'x')) ELSE 1e3 END", None),
            ("CASE WHEN sum(workers) > 3 THEN avg(f(a, b)) ELSE 1e3 END", Some(DependsOn::Values)),
            ("1", Some(DependsOn::Values)),
            ("!xmin!", Some(DependsOn::Cell)),
            ("!xmin! >= -180 AND !XMAX! <= 180", Some(DependsOn::Cell)),
            ("!cell!", Some(DependsOn::Cell)),
            ("!xmin! + count(*)", None),
            ("round(count(*))", None),
            ("now() > '2024-01-01'", None),
            ("count(*) OPERATOR(mine.+) 1", None),
            ("current_date", None),
            ("count(*) + (SELECT 1)", None),
        ] {
            assert_eq!(depends_on(sql), expected, "{sql}");
        }
    }
}
