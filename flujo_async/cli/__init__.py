"""The command line: typer reads it, rich prints. One module a noun.

``app`` puts the commands together, and turns errors into one line and an exit code.
``demo`` runs the pipeline in ``survey`` and follows it with ``progress``; ``report`` prints what comes out.
``runs`` looks at runs whose definitions are not at hand; ``run_page`` prints one of them.
``store`` finds the store that an option names. ``screen`` knows how text gets to a terminal or into a pipe.
"""
