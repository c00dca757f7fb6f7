"""Plans of studies: experiments, settings, and claims."""
