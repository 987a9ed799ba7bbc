"""A page from its template: the one place that knows how templates are read."""

from __future__ import annotations

from typing import Any


def render_page(template: str, **values: Any) -> str:
    """The text of a page.

    Parameters
    ----------
    template : str
        File in `report/templates`.
    **values
        What the template names; a name that is missing is an error, never an empty place.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("eisbach.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(**values)
