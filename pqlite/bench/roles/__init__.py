"""What the child processes of a measurement do: one role per module, each a `play(spec, wire)`."""
