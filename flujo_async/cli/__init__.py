"""The command line: typer reads it, rich prints. One module a noun.

``app`` puts the commands together, and turns errors into one line and an ``exit_code``. ``options`` has what many
commands are given, ``given`` reads what people type for values, and ``completion`` offers some on TAB.
``demo`` runs the pipeline in ``survey`` and follows it with ``demo_progress``; ``demo_report`` prints what comes out.
``runs`` looks at runs, whose definitions need not be at hand: ``run_page`` prints one of them, ``saved_page`` one that
was saved by hand, ``watch`` follows one, ``tail`` all, and ``fact_line`` tells in a line what happened. ``runs_spans``
tells what took how long, with ``trace_page``; ``runs_control`` acts on runs, ``runs_transfer`` moves them.
``dead_letters`` lists those that have failed, ``audit`` what somebody may ask about, ``evaluations`` how well they did;
``worker`` takes runs from queues. ``upkeep``, ``cleanup`` and ``doctor``, whose findings are in ``finding``, are about
whole stores, ``state`` about what they keep beside runs.
``runtime`` finds the ``Flujo`` that an option or pyproject.toml names, and ``store`` the store.
``screen`` knows how text gets to a terminal or into a pipe.
"""
