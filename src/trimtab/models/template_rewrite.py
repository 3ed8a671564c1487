"""Rewrites a parsed chat template so that all of its work passes through filters of the sandbox.

The filters' names begin with `!`, which no template can write.
"""

from __future__ import annotations

from typing import NoReturn, cast

from jinja2 import nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer


class Generation(Extension):
    """`{% generation %}`, with which templates mark what the assistant wrote; the text is as without."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class Rewrite(NodeTransformer):
    """Puts a paying filter wherever the compiled template would otherwise work unobserved.

    Raises
    ------
    TemplateSyntaxError : it asks for another template; a model file holds one
    """

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        # Literal text becomes an expression, so that `finalize` sees and counts it like any other output.
        node.nodes = [
            nodes.Const(part.data, lineno=part.lineno) if isinstance(part, nodes.TemplateData) else part
            for part in node.nodes
        ]
        return self.generic_visit(node)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "!loop")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "!concat")

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _weighed(node.expr)
        return node

    def visit_Operand(self, node: nodes.Operand) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _weighed(node.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _filtered(node.node, "!slice")
        else:
            node.arg = _weighed(node.arg)  # it may be hashed, which visits all of it
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        self.generic_visit(node)
        node.key = _weighed(node.key)
        return node

    def _elsewhere(self, node: nodes.Node) -> NoReturn:
        kind = type(node).__name__.lower()
        raise TemplateSyntaxError(f"`{kind}` of another template; there is none to read", node.lineno)

    visit_Include = visit_Import = visit_FromImport = visit_Extends = _elsewhere


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(cast("nodes.Expr", node), name, [], [], None, None, lineno=node.lineno)


def _weighed(node: nodes.Expr) -> nodes.Expr:
    return node if isinstance(node, nodes.Const) else _filtered(node, "!weigh")
