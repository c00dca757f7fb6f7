"""Arguments in, sentences out: what every command shares."""
