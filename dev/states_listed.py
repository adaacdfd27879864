"""Where the program lists several states of an e-mail: each place a new state has to visit."""

import ast
from typing import NamedTuple

from dev.house import House, Module


def files_that_list_states(house: House) -> list[str]:
    """Return the files in which one statement names several states of an e-mail."""
    enum = next(filter(None, map(_states_enum, house.of_production())), None)
    if enum is None:
        return []
    return [
        module.path
        for module in house.of_production()
        if any(len(enum.named_by(node)) > 1 for node in ast.walk(module.tree))
    ]


class StatesEnum(NamedTuple):
    """The enum of an e-mail's states."""

    name: str
    values: dict[str, str]  # by member

    def named_by(self, node: ast.AST) -> set[str]:
        """Return the states that a text or a collection names."""
        match node:
            case ast.Constant(value=str(text)):
                return self._quoted(text)
            case ast.JoinedStr(values=parts):
                return {state for part in parts for state in self._in_text(part)}
            case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
                return {state for part in parts if (state := self._state(part))}
            case ast.Dict(keys=keys):
                return {state for key in keys if (state := self._state(key))}
            case ast.Match():
                values = (part.value for part in ast.walk(node) if isinstance(part, ast.MatchValue))
                return {state for value in values if (state := self._state(value))}
        return set()

    def _in_text(self, part: ast.AST) -> set[str]:
        match part:
            case ast.Constant(value=str(text)):
                return self._quoted(text)
            case ast.FormattedValue(value=value) if state := self._state(value):
                return {state}
        return set()

    def _quoted(self, text: str) -> set[str]:
        return {state for state in self.values.values() if f"'{state}'" in text}

    def _state(self, node: ast.AST | None) -> str | None:
        match node:
            case ast.Constant(value=str(text)) if text in self.values.values():
                return text
            case ast.Attribute(value=ast.Name(id=name), attr=member) if name == self.name:
                return self.values.get(member)
        return None


def _states_enum(module: Module) -> StatesEnum | None:
    for node in module.public:
        values = {
            target.id: value
            for statement in node.body
            if isinstance(statement, ast.Assign)
            if isinstance(target := statement.targets[0], ast.Name)
            if (value := _text(statement.value)) is not None
        }
        if isinstance(node, ast.ClassDef) and {'sending', 'cancelled'} <= {*values.values()}:
            return StatesEnum(node.name, values)
    return None


def _text(member: ast.expr) -> str | None:
    """Return the text of an enum's member, which may have more to it."""
    match member:
        case ast.Constant(value=str(text)) | ast.Tuple(elts=[ast.Constant(value=str(text)), *_]):
            return text
    return None
