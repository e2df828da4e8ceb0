"""The book as a program: execute, stage, check, pages, figures."""
