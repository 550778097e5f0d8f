"""The command line: typer reads it, rich prints. One module a noun.

``app`` puts the commands together, and turns errors into one line and an exit code.
``demo`` runs the pipeline in ``survey`` and follows it with ``progress``; ``report`` prints what comes out.
``runs`` looks at runs, whose definitions need not be at hand: ``run_page`` prints one of them, ``watch`` follows it,
and ``fact_line`` tells in a line what happened. ``runs_control`` acts on runs.
``dead_letters`` lists those that have failed; ``worker`` takes runs from queues.
``runtime`` finds the ``Flujo`` that an option or pyproject.toml names, and ``store`` the store.
``screen`` knows how text gets to a terminal or into a pipe.
"""
