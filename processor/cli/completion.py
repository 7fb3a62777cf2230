"""`processor completion`: what makes a shell complete this command. The completions come from the same parser."""

import argparse

from processor.cli import DONE

HELP = "Print what makes a shell complete this command"

SHELLS = ("bash", "zsh", "fish")


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument("shell", choices=SHELLS, help="which")
    parser.epilog = (
        'bash: eval "$(processor completion bash)" in ~/.bashrc; zsh: the same in ~/.zshrc;\n'
        "fish: processor completion fish > ~/.config/fish/completions/processor.fish"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    from argcomplete.shell_integration import shellcode

    print(shellcode(["processor"], shell=arguments.shell))
    return DONE


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that asks what may stand here, and end the process."""
    import argcomplete

    argcomplete.autocomplete(parser)
