"""The measurements of scripts/bench. Each module measures one thing; `bench.Bench` runs commands and collects the rows of the table."""
