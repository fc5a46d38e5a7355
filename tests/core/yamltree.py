"""YAML text to a tree, for tests of the core alone (the shell's reader has its own tests)."""

from __future__ import annotations

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from meshctl.core import tree


def load(text: str) -> tree.Tree:
    yaml = YAML(typ="safe", pure=True)
    root = yaml.compose(text)
    return tree.Map((), 1, 1) if root is None else _tree(yaml, root)


def _tree(yaml: YAML, node: Node) -> tree.Tree:
    line, column = node.start_mark.line + 1, node.start_mark.column + 1
    match node:
        case MappingNode():
            entries = tuple(tree.Entry(_scalar(yaml, k), _tree(yaml, v)) for k, v in node.value)
            return tree.Map(entries, line, column)
        case SequenceNode():
            return tree.Seq(tuple(_tree(yaml, i) for i in node.value), line, column)
        case _:
            return _scalar(yaml, node)


def _scalar(yaml: YAML, node: Node) -> tree.Scalar:
    assert isinstance(node, ScalarNode)
    value = yaml.constructor.construct_object(node)
    return tree.Scalar(value, node.value, node.start_mark.line + 1, node.start_mark.column + 1)
