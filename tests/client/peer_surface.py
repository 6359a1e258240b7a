"""The public names of ipyparallel 9.2, as introspection showed them: facts, not code.

Each line is a name, with the names of its parameters where it is called.
"""

from __future__ import annotations

SURFACE: dict[str, str] = {
    "Client": """
        abort(jobs targets block)
        activate(targets suffix)
        become_dask(targets port nanny scheduler_args **worker_args)
        become_distributed(targets port nanny scheduler_args **worker_args)
        block
        broadcast_view(targets is_coalescing **kwargs)
        clear(targets block)
        close(linger)
        cluster
        create_message_futures(msg_id header async_result track label)
        curve_publickey
        curve_secretkey
        curve_serverkey
        db_query(query keys)
        debug
        direct_view(targets **kwargs)
        executor(targets)
        get_result(indices_or_msg_ids block owner)
        history
        hub_history()
        ids
        load_balanced_view(targets **kwargs)
        metadata
        outstanding
        profile
        purge_everything()
        purge_hub_results(jobs targets)
        purge_local_results(jobs targets)
        purge_results(jobs targets)
        queue_status(targets verbose)
        resubmit(indices_or_msg_ids metadata block)
        result_status(msg_ids status_only)
        results
        send_apply_request(socket f args kwargs metadata track ident message_future_hook)
        send_execute_request(socket code silent metadata ident message_future_hook)
        send_signal(sig targets block)
        shutdown(targets restart hub block)
        spin()
        spin_thread(interval)
        stop_dask(targets)
        stop_distributed(targets)
        stop_spin_thread()
        wait(jobs timeout)
        wait_for_engines(n timeout block interactive widget)
        wait_interactive(jobs interval timeout)
    """,
    "DirectView": """
        abort(jobs targets block)
        activate(suffix)
        apply(*args **kwargs)
        apply_async(*args **kwargs)
        apply_sync(*args **kwargs)
        block
        clear(targets block)
        client
        execute(code silent targets block label)
        executor
        gather(key dist targets block)
        get(key_s)
        get_result(indices_or_msg_ids block owner)
        history
        imap(f *sequences **kwargs)
        importer
        label
        map(f *sequences block track return_exceptions label)
        map_async(f *sequences **kwargs)
        map_sync(f *sequences **kwargs)
        outstanding
        parallel(dist block **flags)
        pull(names targets block)
        purge_results(jobs targets)
        push(ns targets block track)
        queue_status(targets verbose)
        remote(block **flags)
        results
        run(filename targets block label)
        scatter(key seq dist flatten targets block track)
        set_flags(**kwargs)
        shutdown(targets restart hub block)
        spin()
        sync_imports(local quiet)
        targets
        temp_flags(**kwargs)
        track
        update(ns)
        use_cloudpickle()
        use_dill()
        use_pickle()
        wait(jobs timeout)
    """,
    "LoadBalancedView": """
        abort(jobs targets block)
        after
        apply(*args **kwargs)
        apply_async(*args **kwargs)
        apply_sync(*args **kwargs)
        block
        client
        executor
        follow
        get_result(indices_or_msg_ids block owner)
        history
        imap(f *sequences ordered max_outstanding return_exceptions)
        label
        map(f *sequences block chunksize ordered return_exceptions label)
        map_async(f *sequences **kwargs)
        map_sync(f *sequences **kwargs)
        outstanding
        parallel(dist block **flags)
        purge_results(jobs targets)
        queue_status(targets verbose)
        register_joblib_backend(name make_default)
        remote(block **flags)
        results
        retries
        set_flags(**kwargs)
        shutdown(targets restart hub block)
        spin()
        targets
        temp_flags(**kwargs)
        timeout
        track
        wait(jobs timeout)
    """,
    "BroadcastView": """
        is_coalescing
    """,
    "AsyncResult": """
        abort()
        add_done_callback(fn)
        cancel()
        cancelled()
        display_outputs(groupby result_only)
        done()
        elapsed
        exception(timeout)
        get(timeout return_exceptions return_when)
        get_dict(timeout)
        join(*async_results)
        metadata
        msg_ids
        owner
        progress
        r
        ready()
        result(timeout)
        result_dict
        running()
        sent
        serial_time
        set_exception(exception)
        set_result(result)
        set_running_or_notify_cancel()
        split()
        stream_output()
        successful()
        timedelta(start end start_key end_key)
        wait(timeout return_when)
        wait_for_output(timeout)
        wait_for_send(timeout)
        wait_interactive(interval timeout widget return_when)
        wall_time
    """,
    "Cluster": """
        cluster_file
        cluster_id
        connect_client(**client_kwargs)
        controller
        controller_args
        controller_ip
        controller_launcher_class
        controller_location
        delay
        engine_launcher_class
        engine_set
        engine_timeout
        engines
        from_dict(d **kwargs)
        from_file(cluster_file profile profile_dir cluster_id **kwargs)
        load_profile
        log_level
        n
        profile
        profile_config
        profile_dir
        remove_cluster_file()
        restart_engine(engine_id)
        restart_engines(engine_set_id)
        send_engines_connection_env
        shutdown_atexit
        signal_engine(signum engine_id)
        signal_engines(signum engine_set_id)
        start_and_connect(n activate)
        start_cluster(n)
        start_controller(**kwargs)
        start_engines(n engine_set_id **kwargs)
        stop_cluster()
        stop_controller()
        stop_engine(engine_id)
        stop_engines(engine_set_id)
        to_dict()
        update_cluster_file()
        write_cluster_file()
    """,
    "ClusterManager": """
        clusters
        get_cluster(cluster_id)
        load_clusters(profile_dirs profile_dir profiles profile init_default_clusters **kwargs)
        new_cluster(**kwargs)
        remove_cluster(cluster_id)
    """,
    "RemoteFunction": """
        block
        flags
        func
        view
    """,
    "ParallelFunction": """
        block
        chunksize
        flags
        func
        map(*sequences)
        mapObject
        ordered
        view
    """,
    "Reference": """
        get_object(g)
    """,
    "Dependency": """
        add
        all
        as_dict()
        check(completed failed)
        clear
        copy
        difference
        difference_update
        discard
        failure
        intersection
        intersection_update
        isdisjoint
        issubset
        issuperset
        pop
        remove
        success
        symmetric_difference
        symmetric_difference_update
        union
        unreachable(completed failed)
        update
    """,
    "ViewExecutor": """
        map(func *iterables **kwargs)
        shutdown(wait)
        submit(fn *args **kwargs)
    """,
}
SURFACE["AsyncMapResult"] = SURFACE["AsyncHubResult"] = SURFACE["AsyncResult"]
SURFACE["BroadcastView"] += SURFACE["DirectView"]

NAMES = """
    ALL_COMPLETED AsyncHubResult AsyncMapResult AsyncResult BroadcastView Client Cluster
    ClusterManager CompositeError Dependency DependencyTimeout DirectView EngineError
    FIRST_COMPLETED FIRST_EXCEPTION ImpossibleDependency InvalidDependency KernelError
    LoadBalancedView NoEnginesRegistered ParallelFunction Reference RemoteError
    RemoteFunction TaskAborted TaskTimeout TimeoutError UnmetDependency ViewExecutor
    depend dependent error interactive parallel register_joblib_backend remote require
    bind_kernel can can_map collect_exceptions deserialize_object pack_apply_message
    serialize_object uncan uncan_map unpack_apply_message unwrap_exception use_cloudpickle
    use_dill use_pickle version_info wrap_exception PrePickled AlreadyDisplayedError
    IPythonError TaskRejectError MultipleInstanceError
""".split()
"""What ``import ipyparallel`` offers; modules left out."""

ERRORS: dict[str, tuple[str, ...]] = {
    "CompositeError": ("RemoteError", "KernelError"),
    "DependencyTimeout": ("ImpossibleDependency", "UnmetDependency", "KernelError"),
    "EngineError": ("KernelError",),
    "ImpossibleDependency": ("UnmetDependency", "KernelError"),
    "InvalidDependency": ("ImpossibleDependency", "UnmetDependency", "KernelError"),
    "NoEnginesRegistered": ("KernelError",),
    "RemoteError": ("KernelError",),
    "TaskAborted": ("KernelError",),
    "TaskTimeout": ("KernelError",),
    "TimeoutError": (),
    "UnmetDependency": ("KernelError",),
}
"""Errors, with the bases one may catch them by; the last two are those of instances."""

INSTANCES = {
    "RemoteError": "ename engine_info evalue print_traceback render_traceback"
    " traceback".split(),
    "CompositeError": "elist ename engine_info evalue msg print_traceback raise_exception"
    " render_traceback tb_limit traceback".split(),
}
